#!/bin/sh
# the line of the documentation, and some more
model=mistralai/Mistral-7B-Instruct-v0.3
docker run --gpus all --shm-size 1g -p 8080:80 -v $PWD/data:/data -e HF_TOKEN=hf_verysecret \
    -e CUDA_VISIBLE_DEVICES=0,1 --rm ghcr.io/huggingface/text-generation-inference:3.0.1 \
    --model-id $model --sharded true --max-input-tokens 2000 \
    --max-total-tokens=4000 --max-concurrent-requests 128 --quantize eetq --trust-remote-code
