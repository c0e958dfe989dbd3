"""A session as manifests hold it, for tests that make manifests by hand."""

from dreambench.artifacts.manifest import CodeState, Compute, Session

SESSION = Session(
    started="2026-01-01T00:00:00+00:00",
    python="3.11.7",
    platform="Linux x86_64",
    packages={"torch": "2.0"},
    code=CodeState(version="0.1.0", commit=None, dirty=None),
    compute=Compute(device="cpu", threads=1, cpu="AVX2", deterministic=False, limits={}),
)
