import pytest
from state_rig import Rig


@pytest.fixture
def rig() -> Rig:
    return Rig()
