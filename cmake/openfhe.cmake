# Provides fheinfer::openfhe, OpenFHE as a target, in one of two ways:
#
#   1. -DOpenFHE_DIR=/path/to/lib/OpenFHE: an installed OpenFHE, 1.4.2 to 1.6. Preferred where given.
#   2. The PyPI wheels: `openfhe` carries the libraries (needed at run time too), `heir_py` the headers of the same
#      version, 1.4.2 (needed only to build). pyproject.toml brings both into the build environment.
#
# Also sets FHEINFER_OPENFHE_{INSTALL,BUILD}_RPATH and FHEINFER_OPENFHE_RPATH_OPTIONS for the module that links it.

if(OpenFHE_DIR)
  find_package(OpenFHE CONFIG REQUIRED)
  if(OpenFHE_VERSION VERSION_LESS 1.4.2 OR OpenFHE_VERSION VERSION_GREATER_EQUAL 1.7)
    message(FATAL_ERROR
      "fheinfer works with OpenFHE 1.4.2 to 1.6 and found '${OpenFHE_VERSION}' in ${OpenFHE_DIR}.\n"
      "Install one of those and pass its -DOpenFHE_DIR=/path/to/lib/OpenFHE, or leave OpenFHE_DIR out to build against the\n"
      "wheels: pip install 'openfhe==1.4.2.*' 'heir_py==2026.6.1'")
  endif()
  message(STATUS "OpenFHE ${OpenFHE_VERSION} of ${OpenFHE_DIR}")
  add_library(fheinfer_openfhe INTERFACE)
  target_include_directories(fheinfer_openfhe SYSTEM INTERFACE
    ${OpenFHE_INCLUDE} ${OpenFHE_INCLUDE}/core ${OpenFHE_INCLUDE}/pke ${OpenFHE_INCLUDE}/binfhe ${OpenFHE_INCLUDE}/third-party/include)
  target_link_directories(fheinfer_openfhe INTERFACE ${OpenFHE_LIBDIR})
  target_link_libraries(fheinfer_openfhe INTERFACE ${OpenFHE_SHARED_LIBRARIES})
  set(FHEINFER_OPENFHE_INSTALL_RPATH "${OpenFHE_LIBDIR}")
  set(FHEINFER_OPENFHE_BUILD_RPATH "${OpenFHE_LIBDIR}")
  set(FHEINFER_OPENFHE_RPATH_OPTIONS "-Wl,--disable-new-dtags")  # as below: its libraries have no path to each other
  add_library(fheinfer::openfhe ALIAS fheinfer_openfhe)
  return()
endif()

# Where the interpreter finds the two wheels, without importing either.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c "
import importlib.util as u, pathlib
for name in ('openfhe', 'heir'):
    spec = u.find_spec(name)
    print(pathlib.Path(spec.submodule_search_locations[0]) if spec else '')"
  OUTPUT_VARIABLE FHEINFER_WHEELS OUTPUT_STRIP_TRAILING_WHITESPACE)
string(REPLACE "\n" ";" FHEINFER_WHEELS "${FHEINFER_WHEELS};;")
list(GET FHEINFER_WHEELS 0 FHEINFER_OPENFHE_WHEEL)
list(GET FHEINFER_WHEELS 1 FHEINFER_HEIR_WHEEL)

set(_library ${FHEINFER_OPENFHE_WHEEL}/lib/libOPENFHEpke.so.1)
set(_headers ${FHEINFER_HEIR_WHEEL}/openfhe+/src)
if(NOT EXISTS ${_library} OR NOT EXISTS ${_headers}/pke/include/openfhe.h)
  message(FATAL_ERROR
    "fheinfer needs OpenFHE and found neither form of it:\n"
    "  1. an installed OpenFHE, 1.4.2 to 1.6: pass -DOpenFHE_DIR=/path/to/lib/OpenFHE\n"
    "     (with pip: pip install . -C cmake.define.OpenFHE_DIR=/path/to/lib/OpenFHE)\n"
    "  2. the wheels: pip install 'openfhe==1.4.2.*' 'heir_py==2026.6.1' into the Python that builds\n"
    "     (libraries looked for at '${_library}', headers at '${_headers}')\n"
    "The wheels need glibc 2.35 (Python 3.11) or 2.39 (Python 3.12 and later).")
endif()

# The wheel carries no config_core.h of the build its libraries come from; this one matches them.
file(WRITE ${CMAKE_BINARY_DIR}/openfhe-config/config_core.h
"#pragma once
#define WITH_BE4
#define WITH_OPENMP
#define CKKS_M_FACTOR 1
#define HAVE_INT128 TRUE
#define HAVE_INT64 TRUE
#define MATHBACKEND 4
#define NATIVEINT 64
")

add_library(fheinfer_openfhe INTERFACE)
target_include_directories(fheinfer_openfhe SYSTEM INTERFACE
  ${CMAKE_BINARY_DIR}/openfhe-config
  ${_headers}/core/include ${_headers}/pke/include ${_headers}/binfhe/include
  ${FHEINFER_HEIR_WHEEL}/cereal+/include)
target_link_libraries(fheinfer_openfhe INTERFACE
  ${_library} ${FHEINFER_OPENFHE_WHEEL}/lib/libOPENFHEbinfhe.so.1 ${FHEINFER_OPENFHE_WHEEL}/lib/libOPENFHEcore.so.1)
add_library(fheinfer::openfhe ALIAS fheinfer_openfhe)

# Installed side by side in site-packages: fheinfer/_core*.so finds openfhe/lib. The libraries find each other only
# through DT_RPATH, which a linker that defaults to DT_RUNPATH must be told to write.
set(FHEINFER_OPENFHE_INSTALL_RPATH "$ORIGIN/../openfhe/lib")
set(FHEINFER_OPENFHE_BUILD_RPATH "${FHEINFER_OPENFHE_WHEEL}/lib")
set(FHEINFER_OPENFHE_RPATH_OPTIONS "-Wl,--disable-new-dtags")
