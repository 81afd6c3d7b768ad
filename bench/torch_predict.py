"""From nothing to the class map of a photo in PyTorch, as scripts/predict.lua does it; the whole process is timed.

    python3 bench/torch_predict.py WEIGHTS PHOTO OUTPUT
"""
import sys

import torch
import torchvision
from PIL import Image
from torchvision.transforms import functional as F

weights, photo, output = sys.argv[1:]
model = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21, aux_loss=False)
model.load_state_dict(torch.load(weights, weights_only=True))
model.eval()
image = Image.open(photo).convert('RGB')
x = F.normalize(F.to_tensor(F.resize(image, 520)), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).unsqueeze(0)
with torch.no_grad():
    scores = model(x)['out']
    scores = torch.nn.functional.interpolate(scores, (image.height, image.width), mode='bilinear')
classes = scores.argmax(1)[0].byte().numpy()
Image.fromarray(classes).save(output)
