"""Who a client is: the open login, and the combiner that asks several authentications in order."""

from dsfast.services.authentication.combiner import AuthenticationCombiner
from dsfast.services.authentication.open import OpenAuthentication

__all__ = ["AuthenticationCombiner", "OpenAuthentication"]
