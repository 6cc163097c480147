// Large stretches of memory that are zero at first and take room only where they are written.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

namespace fewbits {

class Memory {
  public:
    Memory() = default;
    explicit Memory(size_t bytes);  // throws std::bad_alloc
    Memory(Memory&& other) noexcept { swap(other); }
    Memory& operator=(Memory&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Memory();

    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

  private:
    void swap(Memory& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
    }
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

// Where a mapped file gets shorter while it is read, the process gets a signal and not an error: from now on it says one
// sentence and ends with code 2, unless somebody handles that signal already.
void explain_vanished_pages();

// The pages of a mapped file within these bytes are not needed soon.
void let_go(const uint8_t* data, size_t bytes);

}  // namespace fewbits
