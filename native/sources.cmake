# The kernels as a plain library without Python, so that they can be cross-compiled and tested on their own.
set(FEWBITS_NATIVE "${CMAKE_CURRENT_LIST_DIR}")

# Codes must be equal on every instruction set: no contraction of a*b+c, no reordering.
set(FEWBITS_FLAGS -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi
    -Wno-uninitialized -Wno-maybe-uninitialized)  # GCC 12 warns of its own AVX-512 headers

add_library(fewbits_kernels STATIC "${FEWBITS_NATIVE}/cpu_features.cpp" "${FEWBITS_NATIVE}/dispatch.cpp"
            "${FEWBITS_NATIVE}/lattices.cpp" "${FEWBITS_NATIVE}/verify/lattices.cpp" "${FEWBITS_NATIVE}/products/choice.cpp"
            "${FEWBITS_NATIVE}/engine/threads.cpp" "${FEWBITS_NATIVE}/engine/memory.cpp" "${FEWBITS_NATIVE}/engine/machine.cpp"
            "${FEWBITS_NATIVE}/engine/groups.cpp" "${FEWBITS_NATIVE}/engine/layer.cpp"
            "${FEWBITS_NATIVE}/engine/team.cpp" "${FEWBITS_NATIVE}/engine/tiles.cpp" "${FEWBITS_NATIVE}/engine/openmp.cpp"
            "${FEWBITS_NATIVE}/engine/adding.cpp" "${FEWBITS_NATIVE}/engine/convolving.cpp" "${FEWBITS_NATIVE}/engine/generation.cpp"
            "${FEWBITS_NATIVE}/engine/ops_rows.cpp" "${FEWBITS_NATIVE}/engine/ops_linear.cpp"
            "${FEWBITS_NATIVE}/engine/ops_attention.cpp" "${FEWBITS_NATIVE}/engine/ops_experts.cpp"
            "${FEWBITS_NATIVE}/engine/sampler.cpp")
find_package(Threads REQUIRED)
target_link_libraries(fewbits_kernels PUBLIC Threads::Threads ${CMAKE_DL_LIBS})
target_include_directories(fewbits_kernels PUBLIC "${FEWBITS_NATIVE}/include")
target_compile_options(fewbits_kernels PRIVATE ${FEWBITS_FLAGS})

# The families of codecs, from the one place that lists them.
file(STRINGS "${FEWBITS_NATIVE}/include/fewbits/families.h" FEWBITS_FAMILIES REGEX "define FEWBITS_FAMILIES")
string(REGEX MATCHALL "DO\\([a-z0-9_]+\\)" FEWBITS_FAMILIES "${FEWBITS_FAMILIES}")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${FEWBITS_NATIVE}/include/fewbits/families.h")

# fewbits_isa(NAME FOLDER FLAGS...): the codecs and the verifier's reader for one instruction set, named after it.
function(fewbits_isa isa folder)
  set(sources "${FEWBITS_NATIVE}/${folder}/table.cpp" "${FEWBITS_NATIVE}/verify/compare.cpp")
  foreach(family IN LISTS FEWBITS_FAMILIES)
    string(REGEX REPLACE "DO\\((.*)\\)" "\\1" family "${family}")
    list(APPEND sources "${FEWBITS_NATIVE}/${folder}/${family}.cpp")
  endforeach()
  add_library(fewbits_${isa} OBJECT ${sources})
  target_include_directories(fewbits_${isa} PRIVATE "${FEWBITS_NATIVE}/include")
  target_compile_definitions(fewbits_${isa} PRIVATE FEWBITS_ISA_NAME=${isa})
  target_compile_options(fewbits_${isa} PRIVATE ${FEWBITS_FLAGS} ${ARGN})
  target_sources(fewbits_kernels PRIVATE $<TARGET_OBJECTS:fewbits_${isa}>)
  string(TOUPPER ${isa} upper)
  target_compile_definitions(fewbits_kernels PRIVATE FEWBITS_HAVE_${upper})
endfunction()

fewbits_isa(scalar ref -DFEWBITS_COMPARE_NAMES)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  fewbits_isa(avx2 simd -mavx2 -mfma -mf16c)
  fewbits_isa(avx512 simd -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c
              -mprefer-vector-width=512)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-mavx512bf16 FEWBITS_KNOWS_BFLOAT16)
  if(FEWBITS_KNOWS_BFLOAT16)
    add_library(fewbits_bfloat16 OBJECT "${FEWBITS_NATIVE}/products/bfloat16.cpp" "${FEWBITS_NATIVE}/products/bfloat16_rows.cpp")
    target_include_directories(fewbits_bfloat16 PRIVATE "${FEWBITS_NATIVE}/include")
    target_compile_options(fewbits_bfloat16 PRIVATE ${FEWBITS_FLAGS} -mavx512f -mavx512bw -mavx512vl -mavx512bf16)
    target_sources(fewbits_kernels PRIVATE $<TARGET_OBJECTS:fewbits_bfloat16>)
    target_compile_definitions(fewbits_kernels PRIVATE FEWBITS_HAVE_BFLOAT16)
  endif()
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  fewbits_isa(neon simd)
endif()
