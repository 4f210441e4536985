"""The proofs of coordinators and workers, whose form processes of different versions have to agree on."""

from __future__ import annotations

import hashlib
import hmac
from itertools import combinations

from holdfast_protos import proofs

KEY = bytes(range(32))


def test_the_form_of_a_proof() -> None:
    """A proof is HMAC-SHA256 over the hashes of its parts. Guards against a change after which nobody joins."""

    def expected(*parts: bytes) -> bytes:
        text = b"holdfast" + b"".join(hashlib.sha256(part).digest() for part in parts)
        return hmac.new(KEY, text, hashlib.sha256).digest()

    assert proofs.of_worker(KEY, "c0") == expected(b"worker", b"c0")
    assert proofs.of_coordinator(KEY, "c0", b"cert", b"nonce") == expected(b"coordinator", b"c0", b"cert", b"nonce")


def test_no_two_proofs_are_equal() -> None:
    """A proof is good for one thing only. Guards against one that is shown in another's place: to another coordinator,
    over another certificate, for another question, in the other role, or with text moved from one part to the next."""
    other = bytes(32)
    made = [
        proofs.of_worker(KEY, "c0"),
        proofs.of_worker(KEY, "c1"),
        proofs.of_worker(other, "c0"),
        *(
            proofs.of_coordinator(key, *parts)
            for key in (KEY, other)
            for parts in (
                ("c0", b"ab", b"c"),
                ("c0", b"a", b"bc"),
                ("c0a", b"b", b"c"),
                ("c1", b"ab", b"c"),
                ("c0", b"", b""),
            )
        ),
    ]
    assert not any(proofs.same(one, two) for one, two in combinations(made, 2))
    assert proofs.same(made[0], proofs.of_worker(KEY, "c0"))


def test_a_process_is_named_by_its_secret() -> None:
    """Another secret gives another name. Guards against a member that speaks as another one, whose name all know."""
    names = {proofs.process_of(bytes([n])) for n in range(100)}
    assert len(names) == 100
    assert {len(name) for name in names} == {proofs.PROCESS_DIGITS}
    assert proofs.key_id(KEY) != proofs.key_id(bytes(32))
