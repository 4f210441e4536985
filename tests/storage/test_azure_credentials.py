"""What is said where there are no credentials for Azure."""

from __future__ import annotations

import pytest
from azure.identity import CredentialUnavailableError
from fsspec.asyn import sync

from holdfast_storage.errors import StorageError
from holdfast_storage.store import open_store
from holdfast_storage.store.objects.azure import AzureClient
from holdfast_storage.store.objects.client import RequestFailed


class NoToken:
    """A credential that has none to give."""

    def __init__(self) -> None:
        self.asked = 0

    async def get_token(self, *scopes: str, **_: object) -> object:
        self.asked += 1
        raise CredentialUnavailableError("no token was to be had")

    async def close(self) -> None:
        pass


def test_without_credentials() -> None:
    """Missing credentials end in one error that says what to set. Guards against trying every way to log in again and
    again, with fifteen lines of log each time."""
    token = NoToken()
    store = open_store("az://container/run", {"account_name": "account", "credential": token})
    with pytest.raises(StorageError, match=r"az://container/run: no token was to be had.*`az login`.*storage_options"):
        store.list()
    assert token.asked == 1


def test_a_token_that_cannot_be_renewed() -> None:
    """A token that cannot be renewed at the moment is asked for again. Guards against a save that is lost because the
    machine's own credentials are unavailable for a moment."""
    client = AzureClient("container/run", {"account_name": "account", "credential": NoToken()})
    client._authorised = True
    with pytest.raises(RequestFailed) as raised:
        sync(client.loop, client.size, "a")
    assert raised.value.kind == "again"
