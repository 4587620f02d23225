"""A server whose certificate is not believed: the fault of TLS that no waiting mends, wherever a library has put it."""

import ssl

HINT = "SSL_CERT_FILE may name the file of its CA"


def distrust(error: BaseException | None) -> str:
    """Why a certificate was refused somewhere below this error; empty if none was."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        inner = next((a for a in error.args if isinstance(a, BaseException)), None)  # where urllib3 has it
        error = inner or error.__cause__ or error.__context__
    return "" if error is None else f"the server's certificate is not trusted: {error.verify_message}"
