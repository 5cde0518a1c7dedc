"""Hand-written passes that say that they have no derivatives of their own."""

from collections.abc import Callable
from typing import Any

import jax


def first_order(
    one_pass: Callable[..., Any], implementation: str
) -> Callable[..., Any]:
    """Returns the function, which raises TypeError where it is differentiated.

    Args:
      one_pass: the forward or reverse pass of a rasterizer, of arrays alone.
      implementation: its name, for the message.
    """
    wrapped = jax.custom_jvp(one_pass)

    def refuse(primals, tangents):
        del primals, tangents
        raise TypeError(
            f"rasterize: implementation {implementation!r} has first derivatives in "
            "reverse mode only (jax.grad, jax.vjp); implementation='dense' has all, "
            "forward mode and second derivatives too, in O(N H W)"
        )

    wrapped.defjvp(refuse)
    return wrapped
