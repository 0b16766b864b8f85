"""Tables of a benchmark's results, on stdout."""

from tuneport.cli.tables import print_plain, print_table
from tuneport.stages.benchmarks.compare import Comparison
from tuneport.stages.benchmarks.report import Report


def print_report(report: Report) -> None:
    """Print a benchmark's table."""
    header, rows = report.cells()
    print_table(header, rows, report.caption())
    for line in report.remarks():
        print_plain(line)


def print_comparison(comparison: Comparison) -> None:
    """Print what two reports have in common."""
    header, rows = comparison.cells()
    print_table(header, rows, "Beyond noise: the 95 % confidence intervals have no value in common.")
    for line in comparison.notes:
        print_plain(line)
