"""Spread the layers of a tiny model over devices, main memory and the disk, as accelerate does."""

import copy

import torch
from accelerate import cpu_offload, disk_offload, dispatch_model

from antiphase.models.architecture import backbone, find_attention

SHAPES = {
    "the embeddings apart": (0, 1, 1, 1),
    "a layer between": (0, 0, 1, 0),
    "the last layers and the head": (0, 0, 1, 1),
}


def device_map(model, places):
    """A device map: the places of what stands before the layers, of two layers, and of the third and what follows."""
    names = {id(module): name for name, module in model.named_modules()}
    stack = find_attention(model)[0].name.split(".")[0]
    layers = backbone(model).get_submodule(stack)
    body, found = names[id(backbone(model))], {}
    after = False
    for name, module in backbone(model).named_children():
        if module is layers:
            found |= {f"{body}.{name}.{i}": places[min(i + 1, len(places) - 1)] for i in range(len(layers))}
            after = True
            continue
        last = after and "rotary" not in name
        found[f"{body}.{name}"] = places[-1] if last else places[0]
    head = names[id(model.get_output_embeddings())]
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return {**found, head: places[0] if tied else places[-1]}


def spread(model, places):
    """A copy of the model with its layers on several devices."""
    return dispatch_model(copy.deepcopy(model), device_map(model, places), main_device=places[0])


def offloaded(model, where, folder):
    """A copy of the model whose weights are in main memory, or on disk, between the calls of its modules."""
    model, device = copy.deepcopy(model), torch.device("cpu")
    if where == "cpu":
        return cpu_offload(model, execution_device=device)
    return disk_offload(model, str(folder / "offload"), execution_device=device)
