"""torchvision's segmentation reference with Pillow, for data in VOC layout: what torch_data.py and torch_train.py read.

Training: resize to a random size, random flip, random crop with padding; evaluation: resize to the base size. Then to tensor,
normalise.
"""
import random
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomCrop
from torchvision.transforms import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Voc(torch.utils.data.Dataset):
    """crop_size None: for evaluation."""

    def __init__(self, data_path, split, base_size=520, crop_size=480):
        self.base = Path(data_path) / 'VOCdevkit/VOC2012'
        self.ids = (self.base / f'ImageSets/Segmentation/{split}.txt').read_text().split()
        self.base_size, self.crop_size = base_size, crop_size

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        image = Image.open(self.base / f'JPEGImages/{self.ids[i]}.jpg').convert('RGB')
        target = Image.open(self.base / f'SegmentationClass/{self.ids[i]}.png')
        size = random.randint(self.base_size // 2, self.base_size * 2) if self.crop_size else self.base_size
        image = F.resize(image, size)
        target = F.resize(target, size, interpolation=InterpolationMode.NEAREST)
        if self.crop_size:
            image, target = self.flipped_and_cropped(image, target)
        image = F.convert_image_dtype(F.pil_to_tensor(image), torch.float)
        return F.normalize(image, MEAN, STD), F.pil_to_tensor(target).squeeze(0).long()

    def flipped_and_cropped(self, image, target):
        crop = self.crop_size
        if random.random() < 0.5:
            image, target = F.hflip(image), F.hflip(target)
        width, height = image.size
        pad = [0, 0, max(crop - width, 0), max(crop - height, 0)]
        if any(pad):
            image, target = F.pad(image, pad, fill=0), F.pad(target, pad, fill=255)
        box = RandomCrop.get_params(image, (crop, crop))
        return F.crop(image, *box), F.crop(target, *box)
