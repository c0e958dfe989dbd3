"""Methods: code that makes images of a subject. What the author of one imports is here.

    from dreambench.methods import Method, Settings, load_photo

`Method` is the interface; `self.context.load_base_model()` gives the protocol's base model (its
interface: `dreambench.base_models.base.LoadedModel`).
"""

from dreambench.methods.base import Context as Context
from dreambench.methods.base import Generator as Generator
from dreambench.methods.base import Method as Method
from dreambench.methods.base import NoSettings as NoSettings
from dreambench.methods.base import Settings as Settings
from dreambench.methods.base import Work as Work
from dreambench.methods.photos import load_photo as load_photo
from dreambench.storage.snapshots import Snapshot as Snapshot
