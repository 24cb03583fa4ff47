// How failure travels. Inside a room it is an Error, thrown. Across the table of functions in backend.h, which no
// exception may cross, it is a Status, filled in by the callee.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

namespace seqmix {

enum class Code : int {
  ok,
  shape,          // RangeError
  dtype,          // TypeError
  device,         // TypeError
  disposed,       // TypeError
  option,         // TypeError, or RangeError when the kind is right and the value is not
  option_range,   // the RangeError form of `option`
  out_of_memory,  // SeqmixError, as are all below
  cuda,
  unsupported,
  index,
};

struct Status {
  Code code = Code::ok;
  char message[512] = {0};

  bool ok() const { return code == Code::ok; }
  void set(Code c, const char* text) {
    code = c;
    std::snprintf(message, sizeof message, "%s", text);
  }
};

class Error : public std::exception {
 public:
  Error(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  Code code() const { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  Code code_;
  std::string message_;
};

inline void throw_if(const Status& status) {
  if (!status.ok()) throw Error(status.code, status.message);
}

}  // namespace seqmix
