// How the C library hands memory back to the system.
#pragma once

namespace fheinfer {

// OpenFHE allocates and frees a block of half a megabyte for every limb of every intermediate. By default the C
// library returns such blocks to the system at once and gets them back page by page, zeroed: a million page faults in
// one bootstrap at N = 2^16, a sixth of its time. This makes the process keep what it freed. For a process that
// evaluates and does little else. Does nothing where the C library is not glibc.
void keep_freed_memory();
// What was freed until now goes back to the system, where the C library can: after loading, and where a limit says so.
void give_back_memory();

}  // namespace fheinfer
