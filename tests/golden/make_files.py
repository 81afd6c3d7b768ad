#!/usr/bin/python3
"""Makes the fixtures of tests/unit/test_files.lua: the same values in PyTorch's three containers and as safetensors.

Run it in this folder with Debian's python3-torch. The zip and the stream are torch.save's own; the tar is written here
the way PyTorch did in 2016, and read back with torch.load before it counts."""
import argparse
import collections
import io
import json
import pickle
import struct
import tarfile
import warnings

import torch

warnings.simplefilter('ignore')


def values():
    base = torch.arange(24.)
    conv = torch.arange(2 * 3 * 2 * 2, dtype=torch.float32).reshape(2, 3, 2, 2)
    d = collections.OrderedDict()
    d['conv.weight'] = conv
    d['conv.last'] = conv.contiguous(memory_format=torch.channels_last)
    d['param'] = torch.nn.Parameter(torch.tensor([1., 2., 3.]))
    d['f64'] = torch.tensor([[0.1, -2.5], [3e300, 4.]], dtype=torch.float64)
    d['f16'] = torch.tensor([0.5, -65504.]).half()
    d['bf16'] = torch.tensor([1.5, -3e38]).bfloat16()
    d['i64'] = torch.tensor(2 ** 40 + 1)
    d['i32'] = torch.tensor([-5, 7], dtype=torch.int32)
    d['i16'] = torch.tensor([-300, 300], dtype=torch.int16)
    d['i8'] = torch.tensor([-3, 100], dtype=torch.int8)
    d['u8'] = torch.tensor([0, 255], dtype=torch.uint8)
    d['bool'] = torch.tensor([True, False, True])
    d['empty'] = torch.zeros(0, 3)
    d['base'] = base
    d['view'] = base[4:10].view(2, 3)
    d['transposed'] = base.view(4, 6).t()
    d['strided'] = base[1::3]
    d['tied'] = d['conv.weight']
    d['expanded'] = torch.tensor([7.]).expand(2, 2)
    d['plain'] = {'lr': 0.1, 'epoch': 3, 'big': 2 ** 60, 'minus': -70000, 'yes': True, 'none': None, 'text': 'gr\u00fcn',
                  'list': [1, (2, [3.5])], 0: {'momentum_buffer': torch.tensor([0.25])}}
    d['args'] = argparse.Namespace(model='deeplabv3_resnet50', aux=False)
    return d


TYPES = {torch.float32: torch.FloatStorage, torch.int64: torch.LongStorage}


def write_tar(path):
    base = torch.arange(6.)
    tensors = collections.OrderedDict([('weight', torch.arange(4.).reshape(2, 2)), ('count', torch.tensor([5, 6])), ('tail', base[2:])])
    storages, listed, text = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pickle.dump(len(tensors), storages, 2)
    pickle.dump(len(tensors), listed, 2)
    for i, t in enumerate(tensors.values()):
        stored = base if t.numel() == 4 and t.ndim == 1 else t
        pickle.dump((i, 'cpu', TYPES[t.dtype]), storages, 2)
        storages.write(struct.pack('<q', stored.numel()) + stored.contiguous().numpy().tobytes())
        pickle.dump((100 + i, i, torch.Tensor), listed, 2)
        listed.write(struct.pack('<i4x', t.ndim) + struct.pack('<%dq' % t.ndim, *t.shape) + struct.pack('<%dq' % t.ndim, *t.stride()))
        listed.write(struct.pack('<q', t.storage_offset()))
    pickle.dump([], storages, 2)
    pickler = pickle.Pickler(text, 2)
    ids = {id(t): 100 + i for i, t in enumerate(tensors.values())}
    pickler.persistent_id = lambda o: ids.get(id(o))
    pickler.dump(tensors)
    info = pickle.dumps({'protocol_version': 1000, 'little_endian': True, 'type_sizes': {'short': 2, 'int': 4, 'long': 4}}, 2)
    with tarfile.open(path, 'w:', format=tarfile.PAX_FORMAT) as tar:
        for name, content in (('sys_info', info), ('pickle', text.getvalue()), ('tensors', listed.getvalue()), ('storages', storages.getvalue())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    again = torch.load(path)
    assert list(again) == list(tensors) and all(torch.equal(again[k], tensors[k]) for k in tensors)


def write_safetensors(path, tensors):
    names = {torch.float32: 'F32', torch.float16: 'F16', torch.int64: 'I64', torch.int8: 'I8', torch.bool: 'BOOL'}
    header, data = {'__metadata__': {'format': 'pt'}}, b''
    for k, t in tensors.items():
        content = t.contiguous().numpy().tobytes()
        header[k] = {'dtype': names[t.dtype], 'shape': list(t.shape), 'data_offsets': [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text + data)


d = values()
torch.save(d, 'files_zip.pth')
torch.save(d, 'files_stream.pth', _use_new_zipfile_serialization=False)
write_tar('files_tar.pth')
write_safetensors('files.safetensors', {k: d[k].detach() for k in ('conv.weight', 'f16', 'i64', 'i8', 'bool', 'empty')})
