"""Verifies an API server's certificate as Go's crypto/x509 does, and so kubectl.

Knows TLS contexts and their errors, but not HTTP or kubeconfig files.
"""

import ssl

# OpenSSL's `x509_vfy.h`; Python has no names for these.
_EXPIRED, _NOT_YET_VALID = 10, 9
# The issuer is missing, its signature does not match, or it is in the chain but not trusted.
_UNKNOWN_AUTHORITY = frozenset({2, 7, 18, 19, 20, 21})
_WRONG_NAME = frozenset({62, 63, 64})


def verify_as_go(context: ssl.SSLContext) -> None:
    """Verifies chain, dates and names as Go does, on every version of Python."""
    # Since 3.13 Python enforces RFC 5280 for CAs. Those of older EKS and MicroK8s clusters have no key usage.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # What is in the CA file is trusted, also an intermediate CA or the server's own certificate. Default since 3.13.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False


def tls_error(error: BaseException) -> ssl.SSLError | None:
    """The TLS error that caused `error`, None when the connection failed or ended without one."""
    found: BaseException | None = error
    while found:
        if isinstance(found, ssl.SSLError):
            return None if isinstance(found, ssl.SSLEOFError | ssl.SSLZeroReturnError) else found
        found = found.__cause__ or found.__context__
    return None


def verification_problem(error: ssl.SSLCertVerificationError) -> str:
    """What is wrong with the certificate, as a clause for an error message."""
    code, message = error.verify_code, error.verify_message.rstrip(".")
    if code in _UNKNOWN_AUTHORITY:
        return f"it is signed by an unknown authority ({message})"
    if code in _WRONG_NAME:
        return f"it is {message.partition('certificate is ')[2] or 'for another name'}"
    if code == _EXPIRED:
        return "it has expired, or a CA that signed it has"
    if code == _NOT_YET_VALID:
        return "it is not valid yet, or a CA that signed it is not"
    return message
