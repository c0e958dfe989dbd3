"""Methods: code that makes images of a subject. The interface is `Method`."""

from dreambench.methods.base import Context as Context
from dreambench.methods.base import Generator as Generator
from dreambench.methods.base import Method as Method
from dreambench.methods.base import NoSettings as NoSettings
from dreambench.methods.base import Settings as Settings
from dreambench.methods.base import Work as Work
