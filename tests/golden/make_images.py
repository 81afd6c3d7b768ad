#!/usr/bin/python3
"""make_images.py - makes tests/golden/images: small image files and what Pillow reads from them, for test_image.lua and
test_data.lua. Run with Debian's python3-pil and python3-numpy:  /usr/bin/python3 tests/golden/make_images.py

index.txt has a line a result: kind, file, offset in expected.bin, its bytes, then what the kind needs.
"""
import io
import os
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

from pillow_oracle import read_rgb, train_sample, eval_sample, normalize

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'images')
os.makedirs(here, exist_ok=True)
expected, index = io.BytesIO(), []


def path(name):
    return os.path.join(here, name)


def record(kind, name, array, *more):
    data = np.ascontiguousarray(array).tobytes()
    index.append(' '.join(str(v) for v in (kind, name, expected.tell(), len(data), *more)))
    expected.write(data)


def picture(h, w):
    """Smooth in parts, with edges and noise: every code path of a JPEG decoder and a resizer sees something."""
    rng = np.random.RandomState(7)
    y, x = np.mgrid[0:h, 0:w]
    a = np.stack([128 + 100 * np.sin(x / 5.0), 255.0 * y / h, 40 + 5 * x % 180], 2) + rng.randint(-20, 21, (h, w, 3))
    a[h // 3:h // 2, w // 4:w // 2] = (250, 5, 30)
    return np.clip(a, 0, 255).astype(np.uint8)


def palette():
    return [v for i in range(256) for v in ((i * 67) % 256, (i * 29 + 90) % 256, (255 - i * 3) % 256)]


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def raw_png(name, w, h, bits, kind, rows, extra=b''):
    with open(path(name), 'wb') as f:
        f.write(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, bits, kind, 0, 0, 0)) + extra +
                chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))


def image(name, orient=False):
    with Image.open(path(name)) as im:
        record('orient' if orient else 'image', name, read_rgb(ImageOps.exif_transpose(im) if orient else im).transpose(2, 0, 1),
               *(reversed(ImageOps.exif_transpose(im).size) if orient else reversed(im.size)))


rgb = picture(23, 37)
full = Image.fromarray(rgb)
labels = (np.add.outer(np.arange(23) // 4, np.arange(37) // 5) % 11).astype(np.uint8)
labels[0, :] = 255

# JPEG: sampling, progressive, grey, CMYK as Adobe writes it
for name, im, options in [
        ('420.jpg', full, dict(quality=90, subsampling=2)), ('422.jpg', full, dict(quality=70, subsampling=1)),
        ('444.jpg', full, dict(quality=95, subsampling=0)), ('progressive.jpg', full, dict(quality=85, progressive=True)),
        ('grey.jpg', full.convert('L'), dict(quality=85)), ('cmyk.jpg', full.convert('CMYK'), dict(quality=85)),
        ('restart.jpg', full, dict(quality=85, optimize=True))]:
    im.save(path(name), **options)
    image(name)
for o in range(1, 9):
    exif = Image.Exif()
    exif[0x112] = o
    full.save(path('orient%d.jpg' % o), quality=80, exif=exif.tobytes())
    image('orient%d.jpg' % o, orient=True)
exif = Image.Exif()
exif[0x112] = 6
full.save(path('orient6.png'), exif=exif.tobytes())
image('orient6.png', orient=True)

# Orientation in XMP and in text chunks: the PNGs as Pillow turns them. Pillow reads a JPEG's XMP from version 11 on by the same
# rule, so those are turned by hand.
small = full.resize((9, 6))


def itxt(text, packed):
    return chunk(b'iTXt', b'XML:com.adobe.xmp\0' + bytes([packed, 0]) + b'\0\0' + (zlib.compress(text) if packed else text))


def raw_profile(value, kind=b'zTXt'):
    e = Image.Exif()
    e[0x112] = value
    text = b'\nexif\n%8d\n' % len(e.tobytes()) + b'\n'.join(e.tobytes().hex().encode()[i:i + 72] for i in range(0, 200, 72)) + b'\n'
    return chunk(kind, b'Raw profile type exif\0' + (b'\0' + zlib.compress(text) if kind == b'zTXt' else text))


def exif_chunk(value=None):
    e = Image.Exif()
    e[0x131] = 'nobody'
    if value:
        e[0x112] = value
    return chunk(b'eXIf', e.tobytes()[6:])


def xmp(value, form='<rdf:Description tiff:Orientation="%d"/>'):
    return b'<x:xmpmeta><rdf:RDF>' + (form % value).encode() + b'</rdf:RDF></x:xmpmeta>'


small_rows = b''.join(b'\0' + np.asarray(small)[y].tobytes() for y in range(6))
element = '<tiff:Orientation>%d</tiff:Orientation>'
for name, extra in [
        ('xmp6', itxt(xmp(6), 0)), ('xmp_packed8', itxt(xmp(8), 1)), ('xmp_element5', itxt(xmp(5, element), 0)), ('raw6', raw_profile(6)),
        ('raw_text3', raw_profile(3, b'tEXt')), ('raw_and_xmp', raw_profile(7) + itxt(xmp(6), 0)), ('exif_and_raw', exif_chunk(2) + raw_profile(6)),
        ('exif_without_and_xmp', exif_chunk() + itxt(xmp(8), 0)), ('exif1_and_xmp', exif_chunk(1) + itxt(xmp(6), 0)), ('xmp9', itxt(xmp(9), 0)),
        ('xmp_twice', itxt(xmp(6), 0) + itxt(xmp(3), 1))]:
    raw_png(name + '.png', 9, 6, 8, 2, small_rows, extra)
    image(name + '.png', orient=True)
turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}
jpeg = io.BytesIO()
small.save(jpeg, 'jpeg', quality=95)
for name, segments, turn in [
        ('xmp6.jpg', [(b'http://ns.adobe.com/xap/1.0/\0', xmp(6))], 6), ('xmp_element8.jpg', [(b'http://ns.adobe.com/xap/1.0/\0', xmp(8, element))], 8),
        ('exif3_and_xmp.jpg', [(b'', b'Exif\0\0' + exif_chunk(3)[8:-4]), (b'http://ns.adobe.com/xap/1.0/\0', xmp(6))], 3),
        ('exif_without_and_xmp.jpg', [(b'', b'Exif\0\0' + exif_chunk()[8:-4]), (b'http://ns.adobe.com/xap/1.0/\0', xmp(6))], 6)]:
    with open(path(name), 'wb') as f:
        app1 = b''.join(b'\xff\xe1' + struct.pack('>H', len(a + b) + 2) + a + b for a, b in segments)
        f.write(jpeg.getvalue()[:2] + app1 + jpeg.getvalue()[2:])
    with Image.open(path(name)) as im:
        turned = im.convert('RGB').transpose(turns[turn])
    record('orient', name, np.asarray(turned).transpose(2, 0, 1), *reversed(turned.size))

# PNG: colour, grey, alpha, palettes, 16 bits
full.save(path('rgb.png'))
full.convert('L').save(path('grey.png'))
alpha = full.convert('RGBA')
alpha.putalpha(full.convert('L'))
alpha.save(path('rgba.png'))
full.convert('LA').save(path('grey_alpha.png'))
for name in ('rgb.png', 'grey.png', 'rgba.png', 'grey_alpha.png'):
    image(name)
wide = rgb.astype(np.uint16) * 256 + 77
raw_png('rgb16.png', 37, 23, 16, 2, b''.join(b'\0' + wide[y].astype('>u2').tobytes() for y in range(23)))
record('image', 'rgb16.png', rgb.transpose(2, 0, 1), 23, 37)
raw_png('grey16.png', 37, 23, 16, 0, b''.join(b'\0' + wide[y, :, 0].astype('>u2').tobytes() for y in range(23)))
record('image', 'grey16.png', np.stack([rgb[:, :, 0]] * 3), 23, 37)
dark = wide[:, :, 0] >> 4  # a camera of 12 bits: its high byte is nearly nothing
raw_png('dark12.png', 37, 23, 16, 0, b''.join(b'\0' + dark[y].astype('>u2').tobytes() for y in range(23)))
record('image', 'dark12.png', np.stack([dark >> 8] * 3).astype(np.uint8), 23, 37)
for bits in (1, 2, 4, 8):
    p = Image.fromarray(labels % 2 ** bits if bits < 8 else labels, 'P')
    p.putpalette(palette()[:3 * 2 ** bits])
    p.save(path('palette%d.png' % bits), bits=bits)
    image('palette%d.png' % bits)
    with Image.open(path('palette%d.png' % bits)) as im:
        record('mask', 'palette%d.png' % bits, np.asarray(im), 23, 37)
for bits in (2, 4):  # grey of few bits: in a mask the numbers themselves, as nothing else could be meant; in a photo 0 to 255
    few = (labels % 2 ** bits).astype(np.uint8)
    packed = np.zeros((23, -(-37 * bits // 8)), np.uint8)
    for x in range(37):
        packed[:, x * bits // 8] |= few[:, x] << (8 - bits - x * bits % 8)
    raw_png('labels_grey%d.png' % bits, 37, 23, bits, 0, b''.join(b'\0' + packed[y].tobytes() for y in range(23)))
    record('mask', 'labels_grey%d.png' % bits, few, 23, 37)
    image('labels_grey%d.png' % bits)
Image.fromarray(labels, 'L').save(path('labels_grey.png'))
record('mask', 'labels_grey.png', labels, 23, 37)

# a header that promises 1.6e9 pixels
raw_png('huge.png', 40000, 40000, 8, 2, b'\0')

# resizing
noise = np.random.RandomState(3).randint(0, 256, (23, 37, 3)).astype(np.uint8)
Image.fromarray(noise).save(path('noise.png'))
for h, w in [(12, 19), (46, 74), (23, 80), (61, 37), (5, 3), (1, 1), (40, 11), (24, 38)]:
    record('resize', 'noise.png', np.asarray(Image.fromarray(noise).resize((w, h), Image.BILINEAR)).transpose(2, 0, 1), h, w)
    record('resize_mask', 'labels_grey.png', np.asarray(Image.fromarray(labels).resize((w, h), Image.NEAREST)), h, w)

# whole samples as training and evaluation see them
mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
files = path('420.jpg'), path('palette8.png')
for i in range(6):
    a, m = train_sample(*files, seed=5, epoch=3, index=i, base=24, crop=20)
    record('train_image', 'sample%d' % i, normalize(a, mean, std), i)
    record('train_mask', 'sample%d' % i, m, i)
a, m = eval_sample(*files, base=30)
record('eval_image', 'sample', normalize(a, mean, std), *m.shape)
record('eval_mask', 'sample', m, *m.shape)

with open(path('expected.bin'), 'wb') as f:
    f.write(expected.getvalue())
with open(path('index.txt'), 'w') as f:
    f.write('\n'.join(index) + '\n')
