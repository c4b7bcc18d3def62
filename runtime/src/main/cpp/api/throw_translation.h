// SPDX-License-Identifier: AGPL-3.0-or-later
//
// bytedeco's binding turns every C++ exception into a java.lang.RuntimeException with the C++ text. To throw Remora's
// own exceptions instead, this header replaces JNI's Throw by JVMTI's means for it (SetJNIFunctionTable), and passes
// each such exception to NativeErrors.translate first. Only for the JavaCPP binding.
#pragma once

#include <jni.h>
#include <jvmti.h>

namespace remora_jni {

static jclass runtime_exception = nullptr;
static jclass translator = nullptr;
static jmethodID translate = nullptr;
static jint(JNICALL* throw_as_it_is)(JNIEnv*, jthrowable) = nullptr;

static jint JNICALL throw_translated(JNIEnv* env, jthrowable thrown) {
  jclass thrown_class = env->GetObjectClass(thrown);
  if (env->IsSameObject(thrown_class, runtime_exception)) {
    auto translated = static_cast<jthrowable>(env->CallStaticObjectMethod(translator, translate, thrown));
    if (env->ExceptionCheck()) {
      env->ExceptionClear();
    } else if (translated != nullptr) {
      thrown = translated;
    }
  }
  env->DeleteLocalRef(thrown_class);
  return throw_as_it_is(env, thrown);
}

// If a JVM refuses this, the exceptions stay RuntimeExceptions, whose text starts with the right class name.
static inline void translate_throws(JNIEnv* env, jclass) {
  if (throw_as_it_is != nullptr) {
    return;
  }
  jclass translator_class = env->FindClass("io/remora/runtime/internal/NativeErrors");
  if (translator_class == nullptr) {
    return;
  }
  translate = env->GetStaticMethodID(translator_class, "translate", "(Ljava/lang/Throwable;)Ljava/lang/Throwable;");
  jclass exception_class = env->FindClass("java/lang/RuntimeException");
  JavaVM* vm = nullptr;
  jvmtiEnv* jvmti = nullptr;
  if (translate == nullptr || exception_class == nullptr || env->GetJavaVM(&vm) != 0 ||
      vm->GetEnv(reinterpret_cast<void**>(&jvmti), JVMTI_VERSION_1_2) != 0) {
    env->ExceptionClear();
    return;
  }
  translator = static_cast<jclass>(env->NewGlobalRef(translator_class));
  runtime_exception = static_cast<jclass>(env->NewGlobalRef(exception_class));
  jniNativeInterface* functions = nullptr;
  auto error = jvmti->GetJNIFunctionTable(&functions);
  if (error == JVMTI_ERROR_NONE) {
    throw_as_it_is = functions->Throw;
    functions->Throw = &throw_translated;
    error = jvmti->SetJNIFunctionTable(functions);
    if (error != JVMTI_ERROR_NONE) {
      throw_as_it_is = nullptr;
    }
    jvmti->Deallocate(reinterpret_cast<unsigned char*>(functions));
  }
  jvmti->DisposeEnvironment();
}

}  // namespace remora_jni
