// The threads that another library of this process has by OpenMP. Two teams disturb each other: after each of its own loops
// an OpenMP thread stays awake for a while, and whoever starts threads beside it waits for a processor.
#pragma once
#include <functional>
#include <string>

namespace fewbits {

// Takes the OpenMP library that was loaded from `path` (libgomp, or one that has its entries); false where there is none.
bool use_openmp_of(const std::string& path);
// In a forked process there are none of its threads.
void forget_openmp();
bool has_openmp();
// work(0), ..., work(count - 1) at the same time, in OpenMP's threads; false, and nothing is done, where it gives fewer.
bool run_by_openmp(int count, const std::function<void(int)>& work);

}  // namespace fewbits
