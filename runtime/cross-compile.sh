# SPDX-License-Identifier: AGPL-3.0-or-later
#
# The part of runtime/build-native for other platforms than its own; it sets the variables used here. Fetches the compiler,
# the platform's libtorch and, for Linux, the C++ library that libtorch uses there.

zig_version=0.15.2
zig=$build/zig-$zig_version/ziglang/zig
if [ ! -x "$zig" ]; then
  echo "== Fetching zig $zig_version"
  python3 -m pip download -q --no-deps --only-binary=:all: -d "$build/wheel" "ziglang==$zig_version"
  unzip -q -o "$build"/wheel/ziglang-"$zig_version"-*.whl -d "$build/zig-$zig_version"
  chmod +x "$zig"
fi
export ZIG_GLOBAL_CACHE_DIR=$build/zig-cache ZIG_LOCAL_CACHE_DIR=$build/zig-cache

# Fetches the wheel of torch for platforms of pip, and unpacks its libraries into a folder.
libraries_of_wheel() {
  local folder=$1 file
  shift
  [ -d "$folder" ] && return
  echo "== Fetching torch $torch_version for $platform"
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 $(printf ' --platform %s' "$@") \
    -d "$build/wheel-$platform" "torch==$torch_version"
  mkdir -p "$folder.new"
  for file in c10 torch_cpu; do
    unzip -q -o -j "$build/wheel-$platform"/torch-"$torch_version"-*.whl "torch/lib/lib$file.*" -d "$folder.new"
  done
  mv "$folder.new" "$folder"
}

# Fetches bytedeco's libraries of libtorch, and unpacks them into a folder.
libraries_of_bytedeco() {
  local folder=$1
  [ -d "$folder" ] && return
  echo "== Fetching bytedeco's libtorch for $platform"
  maven -pl runtime dependency:copy -Dmdep.overWriteReleases=false -DoutputDirectory="$build/jars" \
    -Dartifact="org.bytedeco:pytorch:$bytedeco_version:jar:$bytedeco_platform"
  mkdir -p "$folder.new"
  unzip -q -o -j "$build/jars/pytorch-$bytedeco_version-$bytedeco_platform.jar" '*/libc10.*' '*/libtorch_cpu.*' \
    -d "$folder.new"
  mv "$folder.new" "$folder"
}

compiler=$build/$platform-c++
case $platform in
  linux-aarch64)
    # libtorch for Linux is built with GCC's C++ library, and zig has LLVM's only.
    gcc=$build/gcc-aarch64
    if [ ! -d "$gcc" ]; then
      echo "== Fetching GCC's C++ library for aarch64"
      mkdir -p "$gcc.new"
      (cd "$gcc.new" && apt-get download -q libstdc++-12-dev-arm64-cross libstdc++6-arm64-cross libgcc-s1-arm64-cross &&
        for package in *.deb; do dpkg -x "$package" .; done)
      mv "$gcc.new" "$gcc"
    fi
    headers=$gcc/usr/aarch64-linux-gnu/include/c++/12
    libraries_of_wheel "$build/wheel-lib-$platform" manylinux_2_28_aarch64
    libs=("$build/wheel-lib-$platform")
    # The C library of the committed libraries for x86_64: version 2.34.
    words="-target aarch64-linux-gnu.2.34 -nostdinc++ -nostdlib++ -I$headers -I$headers/aarch64-linux-gnu"
    words+=" -I$headers/backward"
    system=(-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64
      "-DCMAKE_SHARED_LINKER_FLAGS=-s -Wl,-z,defs $gcc/usr/aarch64-linux-gnu/lib/libstdc++.so.6 $gcc/usr/aarch64-linux-gnu/lib/libgcc_s.so.1")
    suffix=so ;;
  macos-arm64)
    libraries_of_wheel "$build/wheel-lib-$platform" macosx_11_0_arm64 macosx_14_0_arm64
    libraries_of_bytedeco "$build/bytedeco-lib-$platform"
    libs=("$build/wheel-lib-$platform" "$build/bytedeco-lib-$platform")
    # With the headers of zig's C++ library, but not with a copy of that library: Apple's must serve, as it serves libtorch.
    stubs=$build/macos-stubs
    mkdir -p "$stubs"
    # The two symbols more are of functions that a newer compiler calls or inlines. LLVM's list of the symbols of Apple's
    # library has them (libcxx/lib/abi/arm64-apple-darwin*.abilist).
    python3 "$root/runtime/stub-library.py" /usr/lib/libc++.1.dylib "${libs[0]}"/*.dylib +__ZdlPvm \
      +__ZTVNSt3__115basic_streambufIcNS_11char_traitsIcEEEE > "$stubs/libapplec++.tbd"
    cxx=${zig%/zig}/lib/libcxx
    words="-target aarch64-macos.11.0 -nostdinc++ -nostdlib++ -I$cxx/include -I${cxx}abi/include"
    # What zig defines for these headers, apart from the annotations: they leave out what macOS 11 does not have.
    words+=" -D_LIBCPP_ABI_VERSION=1 -D_LIBCPP_ABI_NAMESPACE=__1 -D_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS=1"
    words+=" -D_LIBCPP_HARDENING_MODE=_LIBCPP_HARDENING_MODE_NONE -D_LIBCPP_PSTL_BACKEND_SERIAL -D_LIBCPP_HAS_MUSL_LIBC=0"
    words+=$(printf ' -D_LIBCPP_HAS_%s=1' THREADS MONOTONIC_CLOCK TERMINAL FILESYSTEM RANDOM_DEVICE LOCALIZATION UNICODE \
      WIDE_CHARACTERS)
    system=(-DCMAKE_SYSTEM_NAME=Darwin -DCMAKE_SYSTEM_PROCESSOR=arm64 -DCMAKE_OSX_SYSROOT= -DCMAKE_OSX_DEPLOYMENT_TARGET=
      -DCMAKE_INSTALL_NAME_TOOL=/bin/false "-DCMAKE_SHARED_LINKER_FLAGS=-s -L$stubs -lapplec++")
    suffix=dylib ;;
esac
cat > "$compiler" <<COMPILER
#!/usr/bin/env bash
# zig makes a precompiled header from the header alone, and CMake asks for it as for clang.
kept=("\$@")
if [[ " \$* " == *" -emit-pch "* ]]; then
  kept=(-Wno-pragma-system-header-outside-header)
  while [ \$# -gt 0 ]; do
    case \$1 in
      -Xclang) shift ;;
      -c) ;;
      *.hxx.cxx) kept+=("\${1%.cxx}") ;;
      *) kept+=("\$1") ;;
    esac
    shift
  done
fi
exec "$zig" c++ $words "\${kept[@]}"
COMPILER
printf '#!/bin/sh\nexec "%s" ar "$@"\n' "$zig" > "$compiler-ar"
chmod +x "$compiler" "$compiler-ar"

# Which of the functions of libtorch that the core overrides are virtual differs between its versions.
system+=(-DCMAKE_CXX_FLAGS=-Wno-inconsistent-missing-override)

folder=$build/cmake-$platform
# Each of the libtorchs must have all symbols; the objects are compiled once.
for lib in "${libs[@]}"; do
  echo "== Compiling the native core for $platform against ${lib##*/}"
  cmake -S "$root/runtime/src/main/cpp" -B "$folder" "${system[@]}" -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_AR="$compiler-ar" \
    -DTORCH_INCLUDE="$include" -DTORCH_LIB="$lib" -DSOURCE_HASH="$hash" -DJAVA_HOME="$java_home" \
    -DJNI_SOURCES="$jni/jnijavacpp.cpp;$jni/jniremora.cpp" > "$build/cmake.log" || { cat "$build/cmake.log" >&2; exit 1; }
  cmake --build "$folder" --parallel "$(nproc)"
done

mkdir -p "$output"
for library in libremora libjniremora; do
  cp "$folder/$library.$suffix" "$output/$library.$suffix.new"
  mv "$output/$library.$suffix.new" "$output/$library.$suffix"
done
echo "== Built $output (sources $hash)"
