"""Store a grey image compressed, without loss: pydicom's encoders, and GDCM's where pydicom has none."""

import gdcm
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGLosslessSV1, JPEGLSLossless

from casebook.errors import InvalidObject

#: pydicom can only decode these with what is installed; GDCM can write them.
_WRITTEN_BY_GDCM = (JPEGLosslessSV1, JPEGLSLossless)


def compress(dataset: Dataset, transfer_syntax_uid: UID) -> None:
    """Compress the pixel data of a plain single-frame grey data set in place.

    Raises
    ------
    InvalidObject
        When the encoder refuses the image.
    """
    if transfer_syntax_uid not in _WRITTEN_BY_GDCM:
        dataset.compress(transfer_syntax_uid, generate_instance_uid=False)
        return
    dataset.PixelData = encapsulate([_encode(dataset, transfer_syntax_uid)])
    # PS3.5 A.4: encapsulated pixel data is OB and of undefined length.
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = transfer_syntax_uid


def _encode(dataset: Dataset, transfer_syntax_uid: UID) -> bytes:
    writer = gdcm.ImageWriter()  # owns the image, so it has to live as long as the image is used
    image = writer.GetImage()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((dataset.Columns, dataset.Rows, 1))
    image.SetPixelFormat(
        gdcm.PixelFormat(1, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation)
    )
    photometric = gdcm.PhotometricInterpretation.GetPIType(dataset.PhotometricInterpretation)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(photometric))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ExplicitVRLittleEndian))
    pixels = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    pixels.SetByteStringValue(dataset.PixelData)
    image.SetDataElement(pixels)

    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(transfer_syntax_uid))))
    change.SetInput(image)
    if not change.Change():
        raise InvalidObject(f"no encoder here writes this image in transfer syntax {transfer_syntax_uid}")
    compressed = change.GetOutput()  # a name of its own keeps it alive while its fragments are read
    fragments = compressed.GetDataElement().GetSequenceOfFragments()
    # GDCM's Python wrapper hands bytes over as text.
    return b"".join(
        fragments.GetFragment(index).GetByteValue().GetBuffer().encode("utf-8", "surrogateescape")
        for index in range(fragments.GetNumberOfFragments())
    )
