"""The second device, registered in the process of these tests."""

import pytest

from second_device import device

# While tests are collected: torch makes its queues of gradients, one a device, at the first
# backward pass of a process, which another test may do.
device.register()


@pytest.fixture(scope="session")
def second():
    """The name of the device."""
    return device.NAME
