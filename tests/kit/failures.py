"""What onnxruntime, TensorRT and torch say when a GPU fails, as users have reported it; and a backend that says it."""

from collections.abc import Callable
from typing import Any

from tuneport.runtime.batch import Batch
from tuneport.runtime.runner import EncoderRunner, ModelRunner

RUN = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running"
PLACE = "GPU=0 ; hostname=serving-7f ; file=/onnxruntime_src/onnxruntime/core/providers/cuda"
ARENA_FULL = (
    f"{RUN} FusedMatMul node. Name:'MatMul_92' Status Message: "
    "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal("
    "size_t, bool, onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 8388608000\n"
)
ARENA_LIMIT = (
    f"{RUN} Attention node. Name:'Attention_0' Status Message: /onnxruntime_src/onnxruntime/core/framework/"
    "bfc_arena.cc:198 onnxruntime::common::Status onnxruntime::BFCArena::Extend(size_t) Available memory of 1048576 "
    "is smaller than requested bytes of 8388608"
)
MEMORY = {
    "arena": ARENA_FULL,
    "arena limit": ARENA_LIMIT,
    "cudaMalloc": f"{RUN} Conv node. Name:'Conv_33' Status Message: CUDA failure 2: out of memory ; {PLACE}/"
    "cuda_allocator.cc ; line=47 ; expr=cudaMalloc((void**)&p, size); \n",
    "cublas": f"{RUN} Gemm node. Name:'fc1' Status Message: CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; {PLACE}/"
    "cuda_execution_provider.cc ; line=168 ; expr=cublasCreate(&cublas_handle_); ",
    "cudnn": f"{RUN} Conv node. Name:'c' Status Message: CUDNN failure 4003: "
    f"CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; {PLACE}/nn/conv.cc ; line=480 ; expr=cudnnFind(…); ",
    "torch": "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB of which 14 MiB "
    "is free.",
    "host": "[ONNXRuntimeError] : 1 : FAIL : std::bad_alloc",
}
LOST = {
    "illegal access": "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was encountered ; "
    f"{PLACE}/gpu_data_transfer.cc ; line=75 ; expr=cudaMemcpyAsync(dst_data, src_data, bytes, …); ",
    "launch failure": f"CUDA failure 719: unspecified launch failure ; {PLACE}/cuda_execution_provider.cc ; line=448 ; "
    "expr=cudaStreamSynchronize(static_cast<cudaStream_t>(stream_)); ",
    "ecc": f"CUDA failure 214: uncorrectable ECC error encountered ; {PLACE}/cuda_call.cc ; line=1 ; expr=f(); ",
    "busy": f"CUDA failure 46: all CUDA-capable devices are busy or unavailable ; {PLACE}/x.cc ; line=1 ; expr=f(); ",
    "no device": f"CUDA failure 100: no CUDA-capable device is detected ; {PLACE}/x.cc ; line=1 ; expr=f(); ",
    "ordinal": f"CUDA failure 101: invalid device ordinal ; {PLACE}/x.cc ; line=1 ; expr=cudaSetDevice(device); ",
    "unknown": f"CUDA failure 999: unknown error ; {PLACE}/x.cc ; line=1 ; expr=f(); ",
    "cublas": f"{RUN} Gemm node. Name:'Gemm_568' Status Message: CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; "
    f"{PLACE}/math/gemm.cc ; line=121 ; expr=cublasGemmHelper(…); ",
    "cudnn": f"{RUN} Conv node. Name:'Conv' Status Message: CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; "
    f"{PLACE}/nn/conv.cc ; line=493 ; expr=cudnnAddTensor(…); ",
    "both": f"CUDA failure 700: an illegal memory access was encountered ; {PLACE}/x.cc ; line=1 ; expr=f(); "
    "Failed to allocate memory for requested buffer of size 8192",
    "tensorrt": f"{RUN} TRTKernel_graph node. Name:'TRTKernel_0' Status Message: TensorRT EP execution context enqueue "
    "failed.",
    "tensorrt log": "[TRT] ERROR: IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (an illegal memory access "
    "was encountered)",
    "torch": "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported",
    "driver": "GPU is lost",
}
NEITHER = {
    "wrong rank": "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid rank for input: input_ids Got: 1 Expected: 2",
    "missing kernel": "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Attention(1)",
    "capture": f"CUDA failure 900: operation not permitted when stream is capturing ; {PLACE}/x.cc ; line=1 ;",
    "argument": f"CUDA failure 1: invalid argument ; {PLACE}/x.cc ; line=2 ; expr=cudaMemcpy(…);",
    "index": f"{RUN} Gather node. Name:'g' Status Message: indices element out of data bounds, idx=700 must be within "
    "the inclusive range [-2,1]",
}


def fail_above(runner: ModelRunner, rows: int, text: str) -> list[int]:
    """Make a runner's backend refuse batches of more than `rows` rows; returns the list of the sizes it is given."""
    assert isinstance(runner, EncoderRunner)
    run: Callable[[Batch], Any] = runner.backend.run
    sizes: list[int] = []

    def refuse(batch: Batch) -> Any:
        sizes.append(len(batch.slices))
        if sizes[-1] > rows:
            raise RuntimeError(text)
        return run(batch)

    runner.backend.run = refuse  # type: ignore[method-assign]
    return sizes
