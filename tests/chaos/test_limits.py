"""What is scarce for the main process and all that it starts: memory of all kinds, descriptors."""

import shutil
import subprocess
from pathlib import Path

import pytest
import scripts
from signs import Signs

TIGHT = Path(__file__).with_name("tight.py")
TINY = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" "$@"'
"""For a shell in a mount namespace of its own, which nobody else sees."""


@pytest.mark.proves("items", "memory")
@pytest.mark.proves("items", "descriptors")
@pytest.mark.proves("rest", "memory", "The engine closes, and nothing is left")
@pytest.mark.proves("rest", "descriptors", "The engine closes, and nothing is left")
@pytest.mark.parametrize("what", ["descriptors", "memory"])
def test_a_main_process_that_lacks_something_says_so(
    start_method: str, signs: Signs, what: str
) -> None:
    with scripts.running(TIGHT, start_method, signs, what) as script:
        script.ends(0)
        assert signs.given("as it should")


@pytest.mark.proves("items counter log cache locks", "shm", "What is open goes on as before")
@pytest.mark.proves(
    "arrays",
    "shm",
    "What does not fit is a `SharingError` of one line, before anything is written",
    within="at once",
    but="An array that does not fit can be a file instead: `create_npy`.",
)
@pytest.mark.proves(
    "rest", "shm", "What can't be had is a `SharingError`, not a SIGBUS that ends the process"
)
def test_a_tiny_shared_memory_is_told_before_it_is_written_to(
    start_method: str, signs: Signs
) -> None:
    shell = ["unshare", "-m", "sh", "-c", TINY]
    if not shutil.which("unshare") or subprocess.call([*shell, "true"], stderr=subprocess.DEVNULL):
        pytest.skip("no mount namespace can be made here, in which /dev/shm would be small")
    with scripts.running(TIGHT, start_method, signs, "tiny", before=shell) as script:
        script.ends(0)
        assert signs.given("as it should")
