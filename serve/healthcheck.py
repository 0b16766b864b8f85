"""The image's health check: exits with 0 if the service in this container is ready. Needs only the standard library."""

import os
import ssl
import sys
import urllib.request

TIMEOUT_S = 4


def url() -> str:
    """Return the address of the readiness check, by the variables that set port and TLS."""
    port = os.environ.get("PORT") or os.environ.get("BENTOML_PORT") or "3000"
    return f"{'https' if os.environ.get('TUNEPORT_TLS_CERTFILE') else 'http'}://127.0.0.1:{port}/readyz"


def main() -> int:
    """Ask once; returns the exit code."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the certificate is not for 127.0.0.1
    try:
        with urllib.request.urlopen(url(), timeout=TIMEOUT_S, context=context) as response:
            return 0 if response.status == 200 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
