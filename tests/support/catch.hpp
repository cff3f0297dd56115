// Catch2 as either Debian has it: v2 is one header, v3 a library.
#pragma once

#ifdef SMBDIRECT_CATCH2_V3
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
