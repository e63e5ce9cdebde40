"""Who may look: an active member of the staff who may view the oplog. One rule for page and socket."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from channels.auth import get_user
from channels.db import database_sync_to_async
from django.conf import settings

from mirror.errors import Refusal, Unauthorized

__all__ = ["Forbidden", "check_session", "check_user"]


class Forbidden(Refusal):
    """The user may not look at the oplog."""

    code = "forbidden"


def check_user(user: Any) -> None:
    """Raises Unauthorized for somebody who is not logged in, Forbidden for who may not look."""
    if not user.is_authenticated or not user.is_active:
        raise Unauthorized("log in first")
    if not user.is_staff or not user.has_perm("mirror.view_oplog"):
        raise Forbidden("this takes a member of the staff with the permission mirror.view_oplog")


async def check_session(session_key: str | None) -> None:
    """The same for whoever has this session now: read anew, for it may have ended meanwhile."""
    if not session_key:
        raise Unauthorized("log in first")
    store = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = await get_user(cast("Any", {"session": store}))
    await database_sync_to_async(check_user)(user)
