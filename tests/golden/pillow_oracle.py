#!/usr/bin/python3
"""pillow_oracle.py - what Pillow makes of image files and the reference's transforms, written down a second time; imported by
make_images.py and run by the tests where Pillow is there:

  decode OUT FILES...                                        a line 'h w' (or 'error') and RGB planes for each file
  masks OUT FILES...                                         the same for masks
  resize OUT FILE MASK h w h w ...                           planes and mask for each size
  train OUT IMAGE MASK seed epoch first last base crop       normalised f32 planes and mask for indices first..last
"""
import sys
import warnings

import numpy as np
from PIL import Image, ImageOps

warnings.simplefilter('ignore')


def read_rgb(im):
    if im.mode in ('I', 'I;16'):  # 16-bit grey: Pillow clips at 255, dlv3 takes the high byte
        return np.stack([(np.asarray(im) >> 8).astype(np.uint8)] * 3, 2)
    return np.asarray(im.convert('RGB'))


def philox(key, low, high):
    c, k, mask = [low & 0xffffffff, low >> 32, high & 0xffffffff, high >> 32], [key & 0xffffffff, key >> 32], 0xffffffff
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & mask, (p >> 32) ^ c[3] ^ k[1], p & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def shorter_side(im, mask, size):
    w, h = im.size
    short, long = min(w, h), max(w, h)
    other = int(size * long / short)
    new = (size, other) if w <= h else (other, size)
    return im.resize(new, Image.BILINEAR), mask.resize(new, Image.NEAREST)


def train_sample(image, mask, seed, epoch, index, base, crop, scale=(0.5, 2.0), flip=0.5):
    """The reference's RandomResize, RandomHorizontalFlip, RandomCrop (with padding), with dlv3's draws."""
    words = philox(seed, index, epoch << 8 | 1)
    im, m = Image.open(image).convert('RGB'), Image.open(mask)
    low, high = int(scale[0] * base), int(scale[1] * base)
    im, m = shorter_side(im, m, low + (words[0] * (high - low + 1) >> 32))
    if (words[1] >> 8) * 2.0 ** -24 < flip:
        im, m = ImageOps.mirror(im), ImageOps.mirror(m)
    a, m = np.asarray(im), np.asarray(m)
    pad = ((0, max(0, crop - a.shape[0])), (0, max(0, crop - a.shape[1])))
    a, m = np.pad(a, pad + ((0, 0),)), np.pad(m, pad, constant_values=255)
    top, left = words[2] * (a.shape[0] - crop + 1) >> 32, words[3] * (a.shape[1] - crop + 1) >> 32
    return a[top:top + crop, left:left + crop], m[top:top + crop, left:left + crop]


def eval_sample(image, mask, base):
    im, m = shorter_side(Image.open(image).convert('RGB'), Image.open(mask), base)
    return np.asarray(im), np.asarray(m)


def normalize(a, mean, std):
    """torchvision's ToTensor and Normalize: every step in f32."""
    x = a.astype(np.float32) / np.float32(255)
    return ((x - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)


def write_each(out, files, read):
    for name in files:
        try:
            with Image.open(name) as im:
                im.load()
                a = read(im)
            out.write(b'%d %d\n' % a.shape[:2] + np.ascontiguousarray(a.transpose(2, 0, 1) if a.ndim == 3 else a).tobytes())
        except Exception:
            out.write(b'error\n')


def main(command, target, *args):
    with open(target, 'wb') as out:
        if command == 'decode':
            write_each(out, args, read_rgb)
        elif command == 'masks':
            write_each(out, args, np.asarray)
        elif command == 'resize':
            im, m = Image.open(args[0]).convert('RGB'), Image.open(args[1])
            for h, w in zip(args[2::2], args[3::2]):
                size = int(w), int(h)
                out.write(np.asarray(im.resize(size, Image.BILINEAR)).transpose(2, 0, 1).tobytes())
                out.write(np.asarray(m.resize(size, Image.NEAREST)).tobytes())
        elif command == 'train':
            seed, epoch, first, last, base, crop = (int(v) for v in args[2:])
            for i in range(first, last + 1):
                a, m = train_sample(args[0], args[1], seed, epoch, i, base, crop)
                out.write(np.ascontiguousarray(normalize(a, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))).tobytes() + m.tobytes())
        else:
            sys.exit('no command ' + command)


if __name__ == '__main__':
    main(*sys.argv[1:])
