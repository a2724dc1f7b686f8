"""Images of 16 bits, floats and other numbers of channels."""

import functools
import io
import json
import struct
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import ExifTags, Image

from jssl.data import image as image_lib
from jssl.data import prepare
from jssl.data.arrays import DTYPES, largest, read_array, square_array, to_kind
from jssl.data.decode import decode
from jssl.data.encode import Kind, Options, encode
from jssl.data.files import open_folder
from jssl.data.image import UnsuitableImageError
from jssl.data.open import open_source
from jssl.data.source import DamagedImage


@pytest.fixture(autouse=True)
def quiet():
  tfds.disable_progress_bar()


def random(*shape, dtype="uint16"):
  rng = np.random.default_rng(0)
  if dtype == "float32":
    return rng.random(shape, np.float32)
  return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def npy(array):
  file = io.BytesIO()
  np.save(file, array)
  return file.getvalue()


def save(image, file_format, **options):
  file = io.BytesIO()
  image.save(file, file_format, **options)
  return file.getvalue()


def png(array):
  """A PNG file of RGB or RGBA with 16 bits, which pillow does not write."""

  def chunk(kind, data):
    ends = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", ends)

  height, width, channels = array.shape
  colour = {3: 2, 4: 6}[channels]
  header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
  rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(rows))
    + chunk(b"IEND", b"")
  )


def tiff(array, **options):
  tifffile = pytest.importorskip("tifffile")
  file = io.BytesIO()
  tifffile.imwrite(file, array, **options)
  return file.getvalue()


GRAY = random(6, 8)
BIG = {"byteorder": ">"}
CONTIGUOUS = {"planarconfig": "contig", "photometric": "minisblack"}
PLANES = {"planarconfig": "separate", "photometric": "minisblack"}


@pytest.mark.parametrize(
  ("data", "expected"),
  [
    (lambda: save(Image.fromarray(GRAY), "PNG"), GRAY),
    (lambda: save(Image.fromarray(GRAY), "TIFF"), GRAY),
    (lambda: tiff(GRAY.astype(">u2"), **BIG), GRAY),
    (lambda: save(Image.fromarray(GRAY.astype(np.int32)), "TIFF"), GRAY),
    (lambda: save(Image.fromarray(GRAY), "JPEG2000"), GRAY),
    (
      lambda: save(Image.fromarray(random(6, 8, dtype="float32")), "TIFF"),
      random(6, 8, dtype="float32"),
    ),
    (lambda: b"P5 8 6 65535\n" + GRAY.astype(">u2").tobytes(), GRAY),
    (lambda: png(random(6, 8, 3)), random(6, 8, 3)),
    (lambda: tiff(random(6, 8, 3), photometric="rgb"), random(6, 8, 3)),
    (
      lambda: tiff(random(6, 8, 5), **CONTIGUOUS),
      random(6, 8, 5),
    ),
    (
      lambda: tiff(np.moveaxis(random(6, 8, 5), 2, 0).copy(), **PLANES),
      random(6, 8, 5),
    ),
    (
      # Pillow would drop the last two channels.
      lambda: tiff(random(6, 8, 5, dtype="uint8"), photometric="rgb"),
      random(6, 8, 5, dtype="uint8"),
    ),
    (lambda: npy(random(6, 8, 5)), random(6, 8, 5)),
    (lambda: npy(np.asfortranarray(random(6, 8, 5))), random(6, 8, 5)),
    (lambda: npy(GRAY.astype(">i4")), GRAY),
    (lambda: npy(GRAY > 9000), ((GRAY > 9000) * 255).astype(np.uint8)),
    (
      lambda: npy(random(6, 8, 2, dtype="float32").astype(np.float64)),
      random(6, 8, 2, dtype="float32"),
    ),
  ],
)
def test_every_value_is_read(data, expected):
  found = read_array(data())
  assert found.dtype == expected.dtype
  np.testing.assert_array_equal(found, expected.reshape(6, 8, -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA"])
def test_eight_bits_are_pillows(mode):
  image = Image.fromarray(random(6, 8, 4, dtype="uint8")).convert(mode)
  for file_format in ("TIFF",) if mode == "PA" else ("PNG", "TIFF"):
    assert read_array(save(image, file_format)) is None


@pytest.mark.parametrize(
  ("mode", "file_format"),
  [
    *[("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("PA", "TIFF")],
    *[("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("RGBA", "QOI"), ("RGB", "SGI")],
    *[("RGBA", "DDS"), ("RGB", "PPM"), ("RGB", "ICO")],
    # Pillow may be built without AVIF.
    *[("RGB", name) for name in ("AVIF",) if name in image_lib.FORMATS],
  ],
)
def test_modes_become_rgb(mode, file_format):
  image = Image.new("RGBA", (16, 16), (200, 40, 90, 255)).convert(mode)
  whole = image.convert("RGB").getpixel((3, 3))
  data = save(image, file_format)
  found = decode(data, size_px=16, channels=3)
  assert np.abs(found[3, 3].astype(int) - whole).max() <= 2


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_read(file_format):
  frames = [Image.new("RGB", (16, 16), c) for c in ("red", "green", "blue")]
  data = save(frames[0], file_format, save_all=True, append_images=frames[1:])
  found = decode(data, size_px=16, channels=3)
  assert np.abs(found[3, 3].astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_arrays_are_made_upright(orientation):
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  pixels = random(6, 8, dtype="uint8")
  plain = save(Image.fromarray(pixels), "PNG", exif=exif)
  deep = save(Image.fromarray(pixels.astype(np.uint16) * 257), "PNG", exif=exif)
  with Image.open(io.BytesIO(plain)) as image:
    expected = np.asarray(image_lib.upright(image, "L"))
  np.testing.assert_array_equal(read_array(deep)[..., 0] // 257, expected)


def test_opacity_of_16_bits():
  colours, share = random(6, 8, 3), random(6, 8, 1)
  data = png(np.concatenate([colours, share], axis=2))
  found = read_array(data, background="#ff0080")
  opacity = share / 65535
  behind = np.array([65535, 0, 128 * 257])
  expected = opacity * colours + (1 - opacity) * behind
  np.testing.assert_array_equal(found, np.rint(expected))
  assert read_array(data, background=None).shape == (6, 8, 4)


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (np.zeros(5), r"an array of shape \[5\]; expected \[height, width, ch"),
    (np.zeros((2, 3, 4, 5)), r"shape \[2, 3, 4, 5\]; expected"),
    (np.zeros((0, 3, 4)), r"shape \[0, 3, 4\]; expected"),
    (np.zeros((2, 2), complex), "dtype complex128; expected integers or floa"),
    (np.full((2, 2), -5), "values from -5 to -5; expected 0 to 65535; .*--val"),
    (np.full((2, 2), 2**17), "from 131072 to 131072; expected 0 to 65535"),
    (np.array([[0.5, 1.5]]), "values from 0.5 to 1.5; expected 0 to 1; map"),
    (np.array([[0.5, np.nan]]), "values from nan to nan; expected 0 to 1"),
  ],
)
def test_arrays_that_are_no_images(array, message):
  with pytest.raises(UnsuitableImageError, match=message):
    read_array(npy(array))


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (lambda: npy(GRAY)[:-1], "buffer is smaller"),
    (lambda: npy(GRAY)[:20], "EOF|Unexpected|reading"),
    (lambda: npy(np.array([{}])), "OBJECT array"),
    (lambda: tiff(random(6, 8, 5), **CONTIGUOUS)[:-200], "."),
  ],
)
def test_damaged_arrays(data, message):
  with pytest.raises(Exception, match=message) as caught:
    read_array(data())
  assert image_lib.is_damage(caught.value)


def test_a_header_that_lies_allocates_nothing(monkeypatch):
  data = npy(np.zeros((2, 2, 3), np.uint8))
  huge = data.replace(b"(2, 2, 3), }      ", b"(60000, 60000, 3), }")[
    : len(data)
  ]
  with pytest.raises(Image.DecompressionBombError, match="60000, 60000, 3"):
    read_array(huge)


def test_values_are_mapped():
  array = np.array([[-1000, 0, 1000, 5000]])
  found = read_array(npy(array), value_range=(-1000, 1000))
  assert found.dtype == np.uint16
  assert found[0, :, 0].tolist() == [0, 32768, 65535, 65535]
  found = read_array(npy(array / 1000), value_range=(-1, 1))
  assert found.dtype == np.float32
  assert found[0, :, 0].tolist() == [0, 0.5, 1, 1]


@pytest.mark.parametrize("size_px", [4, 12])
def test_channels_are_resized_as_pillow_resizes_images(size_px):
  # Pillow clips 8 bits between the axes.
  pixels = 64 + random(9, 8, 3, dtype="uint8") // 2
  expected = decode(
    save(Image.fromarray(pixels), "PNG"), size_px=size_px, channels=3
  )
  for array in (
    pixels,
    pixels.astype(np.uint16) * 257,
    np.float32(pixels) / 255,
  ):
    found = square_array(array, size_px)
    assert found.dtype == array.dtype
    assert found.shape == expected.shape
    values = found / largest(array.dtype) * 255
    assert np.abs(values - expected).max() <= 1


def test_a_range_is_mapped_in_a_set_of_8_bits_too():
  array = random(5, 4, 3) // 16  # 12 bits.
  options = Options(value_range=(0, 4095))
  kind = Kind(3, np.dtype(np.uint8))
  stored = encode(png(array), options=options, kind=kind).data
  pixels = np.asarray(Image.open(io.BytesIO(stored))).astype(float)
  np.testing.assert_allclose(pixels, array / 4095 * 255, atol=1)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_opacity_of_tiff_files(dtype):
  """Colours are multiplied by the opacity in one kind of file only."""
  tifffile = pytest.importorskip("tifffile")
  most = largest(np.dtype(dtype))
  straight = np.array([[1, 0.5, 0, 1], [1, 0.5, 0, 0.5], [0, 0, 0, 0]])[None]
  multiplied = np.concatenate(
    [straight[..., :3] * straight[..., 3:], straight[..., 3:]], axis=2
  )
  for kind, shares in (("unassalpha", straight), ("assocalpha", multiplied)):
    file = io.BytesIO()
    pixels = (shares * most).astype(dtype)
    tifffile.imwrite(file, pixels, photometric="rgb", extrasamples=[kind])
    kept = read_array(file.getvalue(), background=None) / most
    np.testing.assert_allclose(kept, straight, atol=1e-4)
    found = read_array(file.getvalue()) / most
    expected = [[1, 0.5, 0], [1, 0.75, 0.5], [1, 1, 1]]
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_channels_and_dtypes_are_converted():
  uint8, uint16, float32 = DTYPES
  gray, rgb = random(2, 3, 1), random(2, 3, 3)
  assert to_kind(rgb, 3, uint16) is rgb
  np.testing.assert_array_equal(
    to_kind(gray, 4, uint16),
    np.concatenate([gray] * 3 + [np.full_like(gray, 65535)], axis=2),
  )
  luminance = rgb @ np.array([0.299, 0.587, 0.114])
  np.testing.assert_array_equal(
    to_kind(rgb, 1, uint16)[..., 0], np.rint(luminance)
  )
  np.testing.assert_array_equal(to_kind(rgb, 3, uint8), np.rint(rgb / 257))
  shares = to_kind(rgb, 3, float32)
  assert shares.dtype == np.float32
  np.testing.assert_array_equal(to_kind(shares, 3, uint16), rgb)


def test_opacity_of_16_bits_is_kept_when_asked(tmp_path):
  folder = write(tmp_path / "files", [random(6, 6, 4)] * 3, "png", png)
  write(folder, [random(6, 6, 3)] * 3)
  data_dir = prepare_folder(folder, keep_alpha=True)
  source = open_source("mine", data_dir=data_dir, image_size_px=6)
  assert (source.image_shape[-1], source.image_dtype) == (4, np.uint16)
  images = source.fetch(np.arange(len(source)))["image"]
  opaque = (images[..., 3] == 65535).all((1, 2))
  assert set(opaque) == {True, False}
  np.testing.assert_array_equal(images[~opaque][0], random(6, 6, 4))


def write(folder, arrays, suffix="npy", encode=npy):
  folder.mkdir(exist_ok=True)
  for i, array in enumerate(arrays):
    (folder / f"{suffix}{i}.{suffix}").write_bytes(encode(array))
  return folder


def prepare_folder(folder, **options):
  prepare.prepare(
    "folder",
    source=str(folder),
    set_name="mine",
    data_dir=str(folder.parent / "data"),
    options=Options(**options),
  )
  return str(folder.parent / "data")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("stored_size_px", [None, 4])
def test_arrays_are_stored_and_read(tmp_path, dtype, stored_size_px):
  arrays = [random(6 + i, 8, 5, dtype=dtype) for i in range(6)]
  folder = write(tmp_path / "files", arrays)
  data_dir = prepare_folder(folder, channels=5, stored_size_px=stored_size_px)
  source = open_source("mine", data_dir=data_dir, image_size_px=4)
  assert (source.image_shape, source.image_dtype) == ((4, 4, 5), dtype)
  rows = np.arange(len(source))
  images = source.fetch(rows)["image"]
  assert images.dtype == dtype
  plain = tfds.data_source("mine", data_dir=data_dir, split="train")
  for row, name in zip(rows, source.fetch_names(rows), strict=True):
    array = np.load(folder / name)
    expected = square_array(array, 4)
    np.testing.assert_array_equal(images[row], expected)
    stored = expected if stored_size_px else array
    np.testing.assert_array_equal(plain[int(row)]["image"], stored)


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_and_rgb_need_no_number(tmp_path, channels):
  arrays = [random(6, 6, channels) for _ in range(6)]
  data_dir = prepare_folder(write(tmp_path / "files", arrays))
  source = open_source(
    "mine", data_dir=data_dir, image_size_px=6, in_memory=True
  )
  assert source.image_dtype == np.uint16
  np.testing.assert_array_equal(source.images[0], arrays[0])


def test_the_least_precise_file_decides(tmp_path, caplog):
  folder = write(tmp_path / "files", [random(6, 6)] * 3)
  write(folder, [random(6, 6, 3)] * 3, "png", png)
  write(folder, [random(6, 6, 3, dtype="uint8")] * 4)
  data_dir = prepare_folder(folder)
  assert "3 of 7 images have more precise values than uint8" in caplog.text
  source = open_source("mine", data_dir=data_dir, image_size_px=6)
  assert (source.image_shape[-1], source.image_dtype) == (3, np.uint8)


@pytest.mark.parametrize(
  ("arrays", "options", "message"),
  [
    ([random(6, 6, 5)] * 4, {}, r"5 channels; set --channels=5 to take such"),
    (
      [random(6, 6, 5)] * 3 + [random(6, 6, 3)],
      {"channels": 5},
      r"3\.npy: 3 channels; expected --channels=5",
    ),
    (
      [random(6, 6, 3)] * 4,
      {"channels": 1},
      "3 channels; expected --channels=1",
    ),
  ],
)
def test_other_numbers_of_channels_are_refused(
  tmp_path, arrays, options, message
):
  folder = write(tmp_path / "files", arrays)
  with pytest.raises(ValueError, match=message):
    prepare_folder(folder, **options)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"value_range": (1.0, 1.0)}, "--value_range=1,1: expected two finite"),
    ({"keep_alpha": True, "channels": 3}, "--channels=3: expected 4 with"),
    ({"max_pixels": 10**9}, "--max_pixels=1000000000 needs --stored_size_px"),
  ],
)
def test_flags_that_do_not_fit(options, message):
  with pytest.raises(ValueError, match=message):
    Options(**options)


def test_limit_of_pixels_can_be_raised(tmp_path, monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
  folder = write(
    tmp_path / "files",
    [random(10, 10, 3, dtype="uint8")] * 6,
    "png",
    lambda array: save(Image.fromarray(array), "PNG"),
  )
  with pytest.raises(ValueError, match=r"100 pixels.*or raise --max_pixels"):
    prepare_folder(folder)
  data_dir = prepare_folder(folder, max_pixels=200, stored_size_px=4)
  assert len(open_source("mine", data_dir=data_dir, image_size_px=4)) == 5


def test_damaged_arrays_of_a_set_are_named(tmp_path):
  data_dir = prepare_folder(
    write(tmp_path / "files", [random(6, 6, 5)] * 5), channels=5
  )
  source = open_source(
    "mine", data_dir=data_dir, image_size_px=6, skip_damaged=True
  )
  good = source.records

  class Damaged:
    def __len__(self):
      return len(good)

    def __getitems__(self, rows):
      records = good.__getitems__(rows)
      if rows[0] == 0:
        image = records[0]["image"]
        records[0]["image"] = {**image, "value": image["value"][:9]}
      return records

  object.__setattr__(source, "records", Damaged())
  images = source.fetch(np.arange(2))["image"]
  np.testing.assert_array_equal(images[0], images[1])
  object.__setattr__(source, "skip_damaged", False)
  with pytest.raises(ValueError, match=r"image 0 of mine.* cannot be decoded"):
    source.fetch(np.arange(2))


def test_arrays_of_other_dtypes_are_refused(tmp_path):
  prepare_folder(write(tmp_path / "files", [random(6, 6, 5)] * 5), channels=5)
  (path,) = (tmp_path / "data").rglob("features.json")
  features = json.loads(path.read_text())
  features["featuresDict"]["features"]["image"]["tensor"]["dtype"] = "int64"
  path.write_text(json.dumps(features))
  with pytest.raises(ValueError, match="images of int64; expected files of ui"):
    open_source("mine", data_dir=str(tmp_path / "data"), image_size_px=6)


def test_files_of_any_kind_where_they_are(tmp_path):
  arrays = [random(6, 6, 5), random(9, 6, 5), random(6, 6, 3)]
  folder = write(tmp_path / "files", arrays)
  source = open_folder(folder, image_size_px=6, channels=5)
  assert source.image_dtype == np.uint16
  images = source.fetch(np.array([0, 1]))["image"]
  np.testing.assert_array_equal(images[0], arrays[0])
  with pytest.raises(ValueError, match=r"npy2\.npy: 3 channels; expected 5"):
    source.fetch(np.array([2]))


@pytest.mark.parametrize("file_format", ["png", "tiff"])
def test_lost_opacity_of_16_bits_is_warned_of(tmp_path, caplog, file_format):
  rgba = functools.partial(tiff, photometric="rgb", extrasamples=["unassalpha"])
  encode_file = {"png": png, "tiff": rgba}[file_format]
  arrays = [random(6, 6, 4)] * 5
  prepare_folder(write(tmp_path / "files", arrays, file_format, encode_file))
  assert "5 of 5 images have transparency" in caplog.text


def test_a_missing_codec_is_no_damage(tmp_path, monkeypatch):
  tifffile = pytest.importorskip("tifffile")

  def fail(self):
    raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

  monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
  bands = functools.partial(tiff, **CONTIGUOUS)
  folder = write(tmp_path / "files", [random(6, 6, 5)] * 3, "tiff", bands)
  message = r"1\.tiff: this TIFF file needs imagecodecs: pip install .*LZW"
  with pytest.raises(ValueError, match=message):
    prepare_folder(folder, channels=5, skip_damaged=True)
  source = open_folder(folder, image_size_px=6, channels=5)
  with pytest.raises(ValueError, match=message) as caught:
    source.fetch(np.array([1]))
  assert not isinstance(caught.value, DamagedImage)
