"""The stages, each a folder beside `tuneport/` in a checkout and linked here, so that they import as one package.

A wheel holds real folders in place of the links.
"""

from pathlib import Path

_HERE = Path(__file__).parent
if not (_HERE / "serve").is_dir():  # where links are not copied, as in a bento, the folders themselves are found
    __path__.append(str(_HERE.parents[1]))
