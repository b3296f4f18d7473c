"""Small DICOM images made up for tests; nothing in them comes from a patient."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
BASIC_TEXT_SR_STORAGE = "1.2.840.10008.5.1.4.1.1.88.11"


def picture(values: NDArray[Any], number: int = 1, **attributes: Any) -> Dataset:
    """Build an uncompressed image; `values` are stored values, attributes go in by keyword.

    Parameters
    ----------
    values
        Shape (rows, columns), (frames, rows, columns) or, with three samples, one axis more.
    number
        Ends the SOP Instance UID, so that each image of a test has its own.
    attributes
        Any further element, or another value for one that is set here.
    """
    samples = int(attributes.get("SamplesPerPixel", 1))
    shape = values.shape[:-1] if samples == 3 else values.shape
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = f"2.25.1.{number}"
    dataset.StudyInstanceUID = "2.25.3"
    dataset.SeriesInstanceUID = "2.25.2"
    dataset.Modality = "CR"
    dataset.SamplesPerPixel = samples
    dataset.PhotometricInterpretation = "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        dataset.PlanarConfiguration = 0
    if len(shape) == 3:
        dataset.NumberOfFrames = shape[0]
    dataset.Rows, dataset.Columns = shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = values.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 1 if values.dtype.kind == "i" else 0
    content = values.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OW" if values.dtype.itemsize > 1 else "OB"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def write(dataset: Dataset, path: Path) -> Path:
    """Write a data set as a DICOM file and return where it lies."""
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def ramp(dtype: str = "uint16", rows: int = 4, columns: int = 5, step: int = 10) -> NDArray[Any]:
    """Stored values that rise from 0 in equal steps, shape (rows, columns)."""
    return (np.arange(rows * columns).reshape(rows, columns) * step).astype(dtype)
