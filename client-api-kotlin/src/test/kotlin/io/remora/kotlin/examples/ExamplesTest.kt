// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.kotlin.examples

import org.assertj.core.api.Assertions.assertThat
import org.junit.jupiter.api.Tag
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.Timeout

@Tag("fast")
@Timeout(120)
class ExamplesTest {

  @Test
  fun digitsAreLearnt() {
    assertThat(trainDigits("mock", epochs = 5)).isGreaterThan(0.9)
  }

  @Test
  fun textIsContinuedAsItWasLearnt() {
    assertThat(generateText("mock", prompt = "the program ", length = 40))
      .isEqualTo("the program records what it wants, and the machine c".take(52))
  }
}
