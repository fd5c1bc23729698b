"""Frames in, mean fluorescence per ROI out: sources, registration, ROI extraction."""

from loop2p.imaging.core import ImagingCore, ImagingSettings
from loop2p.imaging.extraction import Extractor
from loop2p.imaging.frame import Frame, Source
from loop2p.imaging.reference import Reference, ReferenceRefused, load_references, save_references
from loop2p.imaging.registration import Match, Registrar, Template
from loop2p.imaging.rois import RoiFile, RoiSet, read_rois

__all__ = [
    "Extractor",
    "Frame",
    "ImagingCore",
    "ImagingSettings",
    "Match",
    "Reference",
    "ReferenceRefused",
    "Registrar",
    "RoiFile",
    "RoiSet",
    "Source",
    "Template",
    "load_references",
    "read_rois",
    "save_references",
]
