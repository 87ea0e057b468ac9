"""Pixel sizes and shapes of the detectors that PONI files name.

Only flat detectors whose pixels lie on one regular grid are here; their module gaps belong into the mask.
"""

from __future__ import annotations

#: name in lower case without spaces, '-' and '_' → (pixel size in m, (rows, columns))
_KNOWN: dict[str, tuple[float, tuple[int, int]]] = {
    "pilatus100k": (172e-6, (195, 487)),
    "pilatus200k": (172e-6, (407, 487)),
    "pilatus300k": (172e-6, (619, 487)),
    "pilatus300kw": (172e-6, (195, 1475)),
    "pilatus1m": (172e-6, (1043, 981)),
    "pilatus2m": (172e-6, (1679, 1475)),
    "pilatus6m": (172e-6, (2527, 2463)),
    "eiger500k": (75e-6, (514, 1030)),
    "eiger1m": (75e-6, (1065, 1030)),
    "eiger4m": (75e-6, (2167, 2070)),
    "eiger9m": (75e-6, (3269, 3110)),
    "eiger16m": (75e-6, (4371, 4150)),
    "eiger2250k": (75e-6, (512, 512)),
    "eiger2500k": (75e-6, (512, 1028)),
    "eiger21m": (75e-6, (1062, 1028)),
    "eiger24m": (75e-6, (2162, 2068)),
    "eiger29m": (75e-6, (3262, 3108)),
    "eiger216m": (75e-6, (4362, 4148)),
    "jungfrau": (75e-6, (512, 1024)),
    "jungfrau500k": (75e-6, (512, 1024)),
    "jungfrau1m": (75e-6, (1064, 1030)),
    "jungfrau4m": (75e-6, (2164, 2068)),
}

#: pixels of these are not on one flat, regular grid, whatever sizes the file gives (names as pyFAI writes them, in
#: lower case; each also stands for its numbered variants)
_IRREGULAR = ("aarhus", "cirpad", "cylindrical", "hexdetector", "imxpad", "pixirad", "rapid", "xcirpad", "xpad")

#: the CdTe and other variants of PILATUS share the silicon model's pixels
_VARIANTS = ("cdte",)


def known_detector(name: str) -> tuple[float, tuple[int, int]] | None:
    """Pixel size (m) and shape (rows, columns) of a detector known by name; None where it is not."""
    key = _key(name)
    for variant in _VARIANTS:
        key = key.replace(variant, "")
    return _KNOWN.get(key)


def is_irregular(name: str) -> bool:
    """Whether the detector of that name is known to be curved, or to have pixels of several sizes or shapes."""
    return _key(name).startswith(_IRREGULAR)


def _key(name: str) -> str:
    return "".join(char for char in name.lower() if char not in " -_")
