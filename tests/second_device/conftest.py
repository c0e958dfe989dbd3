"""The second device, registered in the process of these tests."""

import pytest

from second_device import device


@pytest.fixture(scope="session", autouse=True)
def second():
    """The name of the device."""
    device.register()
    return device.NAME
