// CUDA for a PyTorch that was built without it: a device guard, hooks and pinned memory. There is one device, cuda:0.
//
// Nothing is computed here. PyTorch refuses tensors on cuda:0 without a device guard, and asks the hooks for pinned
// memory, which is ordinary memory whose addresses are kept. simulated_cuda.py compiles and loads this file.

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

constexpr DeviceType kSimulated = DeviceType::CUDA;

Device only_device() { return {kSimulated, 0}; }
Stream only_stream() { return Stream(Stream::DEFAULT, only_device()); }

class SimulatedGuard final : public c10::impl::DeviceGuardImplInterface {
 public:
  DeviceType type() const override { return kSimulated; }
  DeviceIndex deviceCount() const noexcept override { return 1; }

  Device getDevice() const override { return only_device(); }
  Device exchangeDevice(Device) const override { return only_device(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}

  Stream getStream(Device) const override { return only_stream(); }
  Stream getDefaultStream(Device) const override { return only_stream(); }
  Stream exchangeStream(Stream) const override { return only_stream(); }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}

  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const Stream&) const override {}
};

// The pinned blocks by their first address, with their sizes.
struct PinnedBlocks {
  std::mutex mutex;
  std::map<std::uintptr_t, std::size_t> sizes;
};

PinnedBlocks& pinned_blocks() {
  static auto* blocks = new PinnedBlocks;  // tensors may be freed after the static objects are gone
  return *blocks;
}

std::uintptr_t address_of(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }

void free_pinned(void* data) {
  {
    std::lock_guard<std::mutex> lock(pinned_blocks().mutex);
    pinned_blocks().sizes.erase(address_of(data));
  }
  c10::free_cpu(data);
}

class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    void* data = size ? c10::alloc_cpu(size) : nullptr;
    if (data != nullptr) {
      std::lock_guard<std::mutex> lock(pinned_blocks().mutex);
      pinned_blocks().sizes[address_of(data)] = size;
    }
    return {data, data, &free_pinned, Device(DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* to, const void* from, std::size_t size) const override { default_copy_data(to, from, size); }
};

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> lock(pinned_blocks().mutex);
  const auto& sizes = pinned_blocks().sizes;
  const auto after = sizes.upper_bound(address_of(data));
  if (after == sizes.begin()) {
    return false;
  }
  const auto block = std::prev(after);
  return address_of(data) < block->first + block->second;
}

struct SimulatedHooks final : at::CUDAHooksInterface {
  explicit SimulatedHooks(at::CUDAHooksArgs) {}

  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void deviceSynchronize(DeviceIndex) const override {}
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    static PinnedAllocator allocator;
    return &allocator;
  }
};

}  // namespace

namespace at {
C10_REGISTER_TYPED_CLASS(CUDAHooksRegistry, "CUDAHooks", SimulatedHooks)
}

static const bool registered = [] {
  static SimulatedGuard guard;
  c10::impl::registerDeviceGuard(kSimulated, &guard);
  return true;
}();
