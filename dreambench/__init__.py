"""dreambench: how faithfully does a method put a given subject into new pictures?"""

__version__ = "0.1.0"
