# kernels/cuda/native.cmake: the CUDA module for GPUs, by nvcc: libkava_cuda.so with machine code for sm_80, sm_89 and sm_90a
# and PTX for what comes later, and kernels_check_gpu, which checks its kernels (KAVA_CUDA_CHECK of spec/cuda/kernels_spec.lua)
# and times them. Objects are made by plain commands: no GPU, and none of CMake's own CUDA support, is needed.
# KAVA_CUDA_TARGETS=90a builds for one kind of GPU, in a third of the time.
find_program(KAVA_NVCC nvcc HINTS /usr/local/cuda/bin $ENV{CUDA_HOME}/bin)
set(KAVA_CUDA_TARGETS "80;89;90a" CACHE STRING "GPUs that the CUDA module has machine code for, as in sm_80")
if(NOT KAVA_NVCC OR NOT CMAKE_CXX_COMPILER)
  message(STATUS "KAVA: no nvcc (or no C++ compiler): the CUDA module is not built; the program runs on the CPU")
  return()
endif()
execute_process(COMMAND ${KAVA_NVCC} --version OUTPUT_VARIABLE KAVA_NVCC_VERSION)
string(REGEX MATCH "release ([0-9.]+)" KAVA_NVCC_VERSION "${KAVA_NVCC_VERSION}")
if(CMAKE_MATCH_1 VERSION_LESS 12.1) # a kernel's arguments were 4 KiB at most before, and adamw's are more
  message(STATUS "KAVA: ${KAVA_NVCC} is of CUDA ${CMAKE_MATCH_1}, 12.1 or later expected: the CUDA module is not built")
  return()
endif()
set(KAVA_NVCC_FLAGS -std=c++17 -O3 -I${PROJECT_SOURCE_DIR}/kernels/cuda/native -I${PROJECT_SOURCE_DIR}/src -I${PROJECT_SOURCE_DIR}
  -Xcompiler=-fPIC -Xptxas=-v)
foreach(target ${KAVA_CUDA_TARGETS})
  list(APPEND KAVA_NVCC_FLAGS -gencode=arch=compute_${target},code=sm_${target})
endforeach()
list(APPEND KAVA_NVCC_FLAGS -gencode=arch=compute_90,code=compute_90)
if(90a IN_LIST KAVA_CUDA_TARGETS) # kava_wgmma_built
  list(APPEND KAVA_NVCC_FLAGS -DKAVA_CUDA_90A)
endif()

function(kava_nvcc list) # appends an object of each source to `list`
  set(objects ${${list}})
  foreach(source ${ARGN})
    file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR} ${source})
    set(object ${CMAKE_BINARY_DIR}/nvcc/${name}.o)
    get_filename_component(folder ${object} DIRECTORY)
    file(MAKE_DIRECTORY ${folder})
    # what ptxas says of registers and spills is kept beside the object
    add_custom_command(OUTPUT ${object} DEPENDS ${source} DEPFILE ${object}.d COMMENT "nvcc ${name}" VERBATIM
      COMMAND sh -c "\"$0\" \"$@\" 2>'${object}.log' || { cat '${object}.log' >&2; exit 1; }" ${KAVA_NVCC} ${KAVA_NVCC_FLAGS} -MD -MF
        ${object}.d -c -o ${object} ${source})
    list(APPEND objects ${object})
  endforeach()
  set(${list} ${objects} PARENT_SCOPE)
endfunction()

kava_nvcc(KAVA_NATIVE_OBJECTS ${KAVA_CUDA_SOURCES} ${PROJECT_SOURCE_DIR}/src/base/dtype.c)
kava_nvcc(KAVA_NATIVE_CHECKS ${KAVA_CUDA_CHECKS})
set(KAVA_MODULE ${CMAKE_BINARY_DIR}/libkava_cuda.so)
add_custom_command(OUTPUT ${KAVA_MODULE} DEPENDS ${KAVA_NATIVE_OBJECTS} VERBATIM
  COMMAND ${KAVA_NVCC} -shared -cudart static -o ${KAVA_MODULE} ${KAVA_NATIVE_OBJECTS} -lcublasLt -ldl)
set(KAVA_CHECK_GPU ${CMAKE_BINARY_DIR}/kernels_check_gpu)
add_custom_command(OUTPUT ${KAVA_CHECK_GPU} DEPENDS ${KAVA_NATIVE_OBJECTS} ${KAVA_NATIVE_CHECKS} kava_core VERBATIM
  COMMAND ${KAVA_NVCC} -cudart static -o ${KAVA_CHECK_GPU} ${KAVA_NATIVE_CHECKS} ${KAVA_NATIVE_OBJECTS} $<TARGET_FILE:kava_core>
    -lcublasLt -lpthread -ldl -lm)
add_custom_target(kava_cuda ALL DEPENDS ${KAVA_MODULE} ${KAVA_CHECK_GPU})
