// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Recurrent layers (torch.nn.RNN, LSTM, GRU and their cells) on nodes that compute on the CPU. libtorch decomposes them
// before a backend sees them. For a device other than the CPU, the decomposition rounds differently and makes one small
// multiplication per step. These kernels compute as the CPU does: one multiplication for all steps of a layer's input,
// and oneDNN for a float LSTM. For CUDA nodes they use libtorch's own decomposition, with cells made of plain
// operators.
#include <ATen/ATen.h>
#include <ATen/native/RNN.h>
#include <ATen/ops/gru_cell_native.h>
#include <ATen/ops/gru_native.h>
#include <ATen/ops/lstm_cell_native.h>
#include <ATen/ops/lstm_native.h>
#include <ATen/ops/rnn_relu_native.h>
#include <ATen/ops/rnn_tanh_native.h>
#include <torch/library.h>

#include <algorithm>

#include "client/machine/machine.h"
#include "client/machine/slots.h"

namespace remora {

namespace {

using at::Tensor;
using at::TensorList;
using OptionalTensor = std::optional<Tensor>;

enum class Cell { kTanh, kRelu, kLstm, kGru };

// One direction of one layer.
struct Weights {
  Tensor input, hidden, input_bias, hidden_bias, projection;

  Tensor input_gates(const Tensor& x) const { return at::linear(x, input, input_bias); }
  Tensor hidden_gates(const Tensor& h) const { return at::linear(h, hidden, hidden_bias); }
};

struct State {
  Tensor h;
  Tensor c;  // only of an LSTM

  State narrow(int64_t start, int64_t end) const {
    return {h.narrow(0, start, end - start), c.defined() ? c.narrow(0, start, end - start) : c};
  }
  static State cat(const std::vector<State>& parts) {
    std::vector<Tensor> hs, cs;
    for (const auto& part : parts) {
      hs.push_back(part.h);
      if (part.c.defined()) cs.push_back(part.c);
    }
    return {at::cat(hs, 0), cs.empty() ? Tensor() : at::cat(cs, 0)};
  }
};

// One step, with the formulas of torch.nn.RNNCell, LSTMCell and GRUCell. input_gates() makes the input's gates. The
// time of this call decides in which order autograd sums gradients.
template <class InputGates>
State step(Cell cell, InputGates&& input_gates, const State& state, const Weights& weights) {
  switch (cell) {
    case Cell::kTanh: {
      auto gates = weights.hidden_gates(state.h);
      return {at::tanh(gates.add_(input_gates())), {}};
    }
    case Cell::kRelu: {
      auto gates = weights.hidden_gates(state.h);
      return {at::relu(gates.add_(input_gates())), {}};
    }
    case Cell::kLstm: {
      auto sum = weights.hidden_gates(state.h);
      auto gates = sum.add_(input_gates()).unsafe_chunk(4, 1);
      auto in = gates[0].sigmoid_();
      auto forget = gates[1].sigmoid_();
      auto fresh = gates[2].tanh_();
      auto out = gates[3].sigmoid_();
      auto c = (forget * state.c).add_(in * fresh);
      auto h = out * c.tanh();
      return {weights.projection.defined() ? at::matmul(h, weights.projection.t()) : h, c};
    }
    case Cell::kGru: {
      auto input = input_gates().unsafe_chunk(3, 1);
      auto hidden = weights.hidden_gates(state.h).unsafe_chunk(3, 1);
      auto reset = hidden[0].add_(input[0]).sigmoid_();
      auto update = hidden[1].add_(input[1]).sigmoid_();
      auto fresh = input[2].add(hidden[2].mul_(reset)).tanh_();
      return {(state.h - fresh).mul_(update).add_(fresh), {}};
    }
  }
  return {};
}

// The sizes of a packed sequence's steps, or nullopt for a sequence [time, batch, feature].
using BatchSizes = std::optional<std::vector<int64_t>>;

// One direction over a whole sequence: returns its outputs, and the last state.
std::pair<Tensor, State> run_direction(Cell cell, const Tensor& sequence, const BatchSizes& batch_sizes,
                                       const State& first, const Weights& weights, bool reverse) {
  auto gates = weights.input_gates(sequence);
  std::vector<Tensor> outputs;
  auto state = first;
  if (!batch_sizes) {
    auto steps = gates.unbind(0);
    TORCH_CHECK(!steps.empty(), "Expected sequence length to be larger than 0 in RNN");
    if (reverse) std::reverse(steps.begin(), steps.end());
    for (const auto& each : steps) {
      state = step(cell, [&] { return each; }, state, weights);
      outputs.push_back(state.h);
    }
    if (reverse) std::reverse(outputs.begin(), outputs.end());
    return {at::stack(outputs, 0), state};
  }
  const auto& sizes = *batch_sizes;
  if (!reverse) {  // the shortest sequences end first
    std::vector<State> ended;
    int64_t offset = 0;
    int64_t running = sizes.front();
    for (auto size : sizes) {
      auto input = gates.narrow(0, offset, size);
      if (size < running) {
        ended.push_back(state.narrow(size, running));
        state = state.narrow(0, size);
      }
      running = size;
      state = step(cell, [&] { return input; }, state, weights);
      offset += size;
      outputs.push_back(state.h);
    }
    ended.push_back(state);
    std::reverse(ended.begin(), ended.end());
    return {at::cat(outputs, 0), State::cat(ended)};
  }
  // Backwards, the longest sequences begin first.
  auto offset = sequence.size(0);
  auto running = sizes.back();
  state = first.narrow(0, running);
  for (auto it = sizes.rbegin(); it != sizes.rend(); ++it) {
    if (*it > running) {
      state = State::cat({state, first.narrow(running, *it)});
    }
    offset -= *it;
    running = *it;
    auto input = gates.narrow(0, offset, *it);
    state = step(cell, [&] { return input; }, state, weights);
    outputs.push_back(state.h);
  }
  std::reverse(outputs.begin(), outputs.end());
  return {at::cat(outputs, 0), state};
}

std::vector<Weights> weights_of(TensorList parameters, bool biases, bool projections) {
  size_t each = 2 + (biases ? 2 : 0) + (projections ? 1 : 0);
  TORCH_CHECK(parameters.size() % each == 0, "got an incorrect number of RNN parameters");
  std::vector<Weights> result;
  for (size_t i = 0; i < parameters.size(); i += each) {
    result.push_back({parameters[i], parameters[i + 1], biases ? parameters[i + 2] : Tensor(),
                      biases ? parameters[i + 3] : Tensor(), projections ? parameters[i + each - 1] : Tensor()});
  }
  return result;
}

struct Settings {
  int64_t layers;
  double dropout;
  bool train;
  bool bidirectional;
};

// All layers: returns the last layer's outputs, and the last states of all directions of all layers.
std::pair<Tensor, std::vector<State>> run_layers(Cell cell, Tensor sequence, const BatchSizes& batch_sizes,
                                                 const std::vector<State>& first, const std::vector<Weights>& weights,
                                                 const Settings& settings) {
  size_t directions = settings.bidirectional ? 2 : 1;
  if (settings.bidirectional) {
    TORCH_CHECK(first.size() % 2 == 0 && weights.size() % 2 == 0,
                "Odd number of params or hiddens given to a bidirectional RNN");
  }
  TORCH_CHECK(static_cast<size_t>(settings.layers) * directions == first.size(),
              "Expected more hidden states in stacked_rnn");
  TORCH_CHECK(static_cast<size_t>(settings.layers) * directions == weights.size(),
              "Expected more weights in stacked_rnn");
  std::vector<State> last;
  for (int64_t layer = 0; layer < settings.layers; layer++) {
    std::vector<Tensor> outputs;
    for (size_t direction = 0; direction < directions; direction++) {
      auto index = static_cast<size_t>(layer) * directions + direction;
      auto [output, state] = run_direction(cell, sequence, batch_sizes, first[index], weights[index], direction == 1);
      outputs.push_back(output);
      last.push_back(state);
    }
    sequence = directions == 1 ? outputs[0] : at::cat(outputs, outputs[0].dim() - 1);
    if (settings.dropout != 0 && settings.train && layer < settings.layers - 1) {
      sequence = at::dropout(sequence, settings.dropout, true);
    }
  }
  return {sequence, last};
}

std::pair<Tensor, Tensor> stacked(const std::vector<State>& states) {
  std::vector<Tensor> hs, cs;
  for (const auto& state : states) {
    hs.push_back(state.h);
    if (state.c.defined()) cs.push_back(state.c);
  }
  return {at::stack(hs, 0), cs.empty() ? Tensor() : at::stack(cs, 0)};
}

std::vector<State> unstacked(const Tensor& h, const Tensor& c = {}) {
  auto hs = h.unbind(0);
  auto cs = c.defined() ? c.unbind(0) : std::vector<Tensor>();
  std::vector<State> result;
  for (size_t i = 0; i < hs.size(); i++) result.push_back({hs[i], c.defined() ? cs.at(i) : Tensor()});
  return result;
}

// Batch sizes control the program's loop, so they are read here, whatever their device.
BatchSizes read_sizes(const Tensor& batch_sizes) {
  auto local = batch_sizes.cpu().contiguous();
  TORCH_CHECK(local.scalar_type() == at::kLong && local.dim() == 1 && local.numel() > 0,
              "batch_sizes must be a 1-D tensor of int64 with at least one element");
  // Not the template const_data_ptr<T>(): compilers disagree about its name in libtorch (clang 18).
  auto* data = static_cast<const int64_t*>(local.const_data_ptr());
  return std::vector<int64_t>(data, data + local.numel());
}

// ---------------------------------------------------------------- RNN and GRU

using LibtorchLayers = std::tuple<Tensor, Tensor> (*)(const Tensor&, const Tensor&, TensorList, bool, int64_t, double,
                                                      bool, bool, bool);
using LibtorchPacked = std::tuple<Tensor, Tensor> (*)(const Tensor&, const Tensor&, const Tensor&, TensorList, bool,
                                                      int64_t, double, bool, bool);

template <Cell cell, LibtorchLayers libtorch>
std::tuple<Tensor, Tensor> layers(const Tensor& input, const Tensor& hx, TensorList parameters, bool biases,
                                  int64_t count, double dropout, bool train, bool bidirectional, bool batch_first) {
  if (machine_of(input.device()).on_cuda()) {
    return libtorch(input, hx, parameters, biases, count, dropout, train, bidirectional, batch_first);
  }
  at::native::check_attributes(input, parameters, hx);
  auto [output, last] = run_layers(cell, batch_first ? input.transpose(0, 1) : input, {}, unstacked(hx),
                                   weights_of(parameters, biases, false), {count, dropout, train, bidirectional});
  if (batch_first) {
    output.transpose_(0, 1);
  }
  return {output, stacked(last).first};
}

template <Cell cell, LibtorchPacked libtorch>
std::tuple<Tensor, Tensor> packed_layers(const Tensor& data, const Tensor& batch_sizes, const Tensor& hx,
                                         TensorList parameters, bool biases, int64_t count, double dropout, bool train,
                                         bool bidirectional) {
  if (machine_of(data.device()).on_cuda()) {
    return libtorch(data, batch_sizes.cpu(), hx, parameters, biases, count, dropout, train, bidirectional);
  }
  auto [output, last] = run_layers(cell, data, read_sizes(batch_sizes), unstacked(hx),
                                   weights_of(parameters, biases, false), {count, dropout, train, bidirectional});
  return {output, stacked(last).first};
}

// ---------------------------------------------------------------- LSTM

void check_lstm_states(TensorList hx, const Settings& settings) {
  TORCH_CHECK(hx.size() == 2, "lstm expects two hidden states");
  auto expected = settings.layers * (settings.bidirectional ? 2 : 1);
  const char* names[] = {"h_0", "c_0"};
  for (size_t i = 0; i < 2; i++) {
    TORCH_CHECK(hx[i].dim() == 3, "For batched 3-D input, hx[", i, "] (", names[i], ") should be 3-D but got ",
                hx[i].dim(), "-D tensor");
  }
  for (size_t i = 0; i < 2; i++) {
    TORCH_CHECK(hx[i].sym_size(0) == expected, "Expected ", names[i], " size(0) to be ", expected,
                " (num_layers * num_directions), but got ", hx[i].sym_size(0));
  }
}

// Like at::cpu::is_avx512_supported of libtorch 2.10 and older, which newer versions lack.
bool has_avx512() {
#ifdef __x86_64__
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

// Whether libtorch on the CPU uses oneDNN for an LSTM.
bool uses_onednn(const Tensor& input) {
  if (!at::globalContext().userEnabledMkldnn() || !at::globalContext().hasMKLDNN() || input.sym_numel() == 0) {
    return false;
  }
  auto dtype = input.scalar_type();
  return dtype == at::kFloat || (dtype == at::kBFloat16 && has_avx512());
}

constexpr int64_t kOneDnnLstm = 2;  // ideep::rnn_kind::LSTM

std::tuple<Tensor, Tensor, Tensor> onednn_lstm(const Tensor& input, TensorList hx, TensorList parameters, bool biases,
                                               bool batch_first, const Settings& settings) {
  auto sequence = (batch_first ? input.transpose(0, 1) : input).contiguous();
  auto h = hx[0].contiguous();
  auto c = hx[1].contiguous();
  auto weights = weights_of(parameters, biases, false);
  int64_t directions = settings.bidirectional ? 2 : 1;
  TORCH_CHECK(static_cast<int64_t>(weights.size()) == settings.layers * directions,
              "got an incorrect number of RNN parameters");
  std::vector<Tensor> hs, cs;
  for (int64_t layer = 0; layer < settings.layers; layer++) {
    std::vector<Tensor> outputs;
    for (int64_t direction = 0; direction < directions; direction++) {
      auto index = layer * directions + direction;
      const auto& w = weights[static_cast<size_t>(index)];
      auto bias = [&](const Tensor& given, const Tensor& weight) {
        return biases ? given : at::zeros(weight.sizes(), weight.options());
      };
      auto [y, hy, cy, workspace] = at::mkldnn_rnn_layer(
          sequence, w.input, w.hidden, bias(w.input_bias, w.input), bias(w.hidden_bias, w.hidden), h[index], c[index],
          direction == 1, {}, kOneDnnLstm, h.sym_size(2).guard_int(__FILE__, __LINE__), settings.layers, biases,
          settings.bidirectional, batch_first, settings.train);
      outputs.push_back(y);
      hs.push_back(hy);
      cs.push_back(cy);
    }
    sequence = directions == 1 ? outputs[0] : at::cat(outputs, -1);
    if (settings.dropout != 0 && settings.train && layer < settings.layers - 1) {
      sequence = at::dropout(sequence, settings.dropout, true);
    }
  }
  return {batch_first ? sequence.transpose(0, 1) : sequence, at::stack(hs, 0), at::stack(cs, 0)};
}

std::tuple<Tensor, Tensor, Tensor> lstm(const Tensor& input, TensorList hx, TensorList parameters, bool biases,
                                        int64_t count, double dropout, bool train, bool bidirectional,
                                        bool batch_first) {
  if (machine_of(input.device()).on_cuda()) {
    return at::native::lstm(input, hx, parameters, biases, count, dropout, train, bidirectional, batch_first);
  }
  Settings settings{count, dropout, train, bidirectional};
  check_lstm_states(hx, settings);
  bool projections = hx[0].sym_size(2) != hx[1].sym_size(2);
  if (!projections && uses_onednn(input)) {
    return onednn_lstm(input, hx, parameters, biases, batch_first, settings);
  }
  at::native::check_attributes(input, parameters, hx);
  auto [output, last] = run_layers(Cell::kLstm, batch_first ? input.transpose(0, 1) : input, {},
                                   unstacked(hx[0], hx[1]), weights_of(parameters, biases, projections), settings);
  auto [h, c] = stacked(last);
  return {batch_first ? output.transpose(0, 1) : output, h, c};
}

std::tuple<Tensor, Tensor, Tensor> packed_lstm(const Tensor& data, const Tensor& batch_sizes, TensorList hx,
                                               TensorList parameters, bool biases, int64_t count, double dropout,
                                               bool train, bool bidirectional) {
  if (machine_of(data.device()).on_cuda()) {
    return at::native::lstm(data, batch_sizes.cpu(), hx, parameters, biases, count, dropout, train, bidirectional);
  }
  Settings settings{count, dropout, train, bidirectional};
  check_lstm_states(hx, settings);
  bool projections = hx[0].sym_size(2) != hx[1].sym_size(2);
  auto [output, last] = run_layers(Cell::kLstm, data, read_sizes(batch_sizes), unstacked(hx[0], hx[1]),
                                   weights_of(parameters, biases, projections), settings);
  auto [h, c] = stacked(last);
  return {output, h, c};
}

// ---------------------------------------------------------------- cells

void check_cell(const Tensor& input, TensorList states, const Tensor& w_ih, const Tensor& w_hh, int64_t gates) {
  auto hidden_size = w_hh.sym_size(1);
  TORCH_CHECK(input.sym_size(1) == w_ih.sym_size(1), "input has inconsistent input_size: got ", input.sym_size(1),
              " expected ", w_ih.sym_size(1));
  const Tensor* weights[] = {&w_ih, &w_hh};
  const char* names[] = {"weight_ih", "weight_hh"};
  for (size_t i = 0; i < 2; i++) {
    TORCH_CHECK(weights[i]->sym_size(0) == gates * hidden_size, names[i], " first dim must be ", gates,
                " * hidden_size = ", gates * hidden_size, ", but got ", weights[i]->sym_size(0));
  }
  for (size_t i = 0; i < states.size(); i++) {
    TORCH_CHECK(input.sym_size(0) == states[i].sym_size(0), "Input batch size ", input.sym_size(0),
                " doesn't match hidden", i, " batch size ", states[i].sym_size(0));
    TORCH_CHECK(states[i].sym_size(1) == hidden_size, "hidden", i, " has inconsistent hidden_size: got ",
                states[i].sym_size(1), ", expected ", hidden_size);
  }
}

std::tuple<Tensor, Tensor> lstm_cell(const Tensor& input, TensorList hx, const Tensor& w_ih, const Tensor& w_hh,
                                     const OptionalTensor& b_ih, const OptionalTensor& b_hh) {
  if (machine_of(input.device()).on_cuda()) {
    return at::native::lstm_cell(input, hx, w_ih, w_hh, b_ih, b_hh);
  }
  TORCH_CHECK(hx.size() == 2, "lstm_cell expects two hidden states");
  check_cell(input, hx, w_ih, w_hh, 4);
  Weights weights{w_ih, w_hh, b_ih.value_or(Tensor()), b_hh.value_or(Tensor()), {}};
  auto next = step(Cell::kLstm, [&] { return weights.input_gates(input); }, {hx[0], hx[1]}, weights);
  return {next.h, next.c};
}

Tensor gru_cell(const Tensor& input, const Tensor& hx, const Tensor& w_ih, const Tensor& w_hh,
                const OptionalTensor& b_ih, const OptionalTensor& b_hh) {
  if (machine_of(input.device()).on_cuda()) {
    return at::native::gru_cell(input, hx, w_ih, w_hh, b_ih, b_hh);
  }
  check_cell(input, hx, w_ih, w_hh, 3);
  Weights weights{w_ih, w_hh, b_ih.value_or(Tensor()), b_hh.value_or(Tensor()), {}};
  return step(Cell::kGru, [&] { return weights.input_gates(input); }, {hx, {}}, weights).h;
}

// For CUDA nodes: libtorch passes cells of this device type to fused operators that only libtorch's own devices have.
// These are the same formulas in operators that every node has, which autograd differentiates as usual.
Tensor add_bias(const Tensor& gates, const OptionalTensor& bias) {
  return bias.has_value() && bias->defined() ? gates + *bias : gates;
}

std::tuple<Tensor, Tensor, Tensor> fused_lstm_cell(const Tensor& input_gates, const Tensor& hidden_gates,
                                                   const Tensor& cx, const OptionalTensor& input_bias,
                                                   const OptionalTensor& hidden_bias) {
  auto gates = (add_bias(hidden_gates, hidden_bias) + add_bias(input_gates, input_bias)).chunk(4, 1);
  auto cy = gates[1].sigmoid() * cx + gates[0].sigmoid() * gates[2].tanh();
  auto hy = gates[3].sigmoid() * cy.tanh();
  return {hy, cy, Tensor()};
}

std::tuple<Tensor, Tensor> fused_gru_cell(const Tensor& input_gates, const Tensor& hidden_gates, const Tensor& hx,
                                          const OptionalTensor& input_bias, const OptionalTensor& hidden_bias) {
  auto input = add_bias(input_gates, input_bias).chunk(3, 1);
  auto hidden = add_bias(hidden_gates, hidden_bias).chunk(3, 1);
  auto reset = (hidden[0] + input[0]).sigmoid();
  auto update = (hidden[1] + input[1]).sigmoid();
  auto fresh = (input[2] + hidden[2] * reset).tanh();
  return {(hx - fresh) * update + fresh, Tensor()};
}

void register_layers(torch::Library& m) {
  m.impl("lstm.input", &lstm);
  m.impl("lstm.data", &packed_lstm);
  m.impl("gru.input", &layers<Cell::kGru, at::native::gru>);
  m.impl("gru.data", &packed_layers<Cell::kGru, at::native::gru>);
  m.impl("rnn_tanh.input", &layers<Cell::kTanh, at::native::rnn_tanh>);
  m.impl("rnn_tanh.data", &packed_layers<Cell::kTanh, at::native::rnn_tanh>);
  m.impl("rnn_relu.input", &layers<Cell::kRelu, at::native::rnn_relu>);
  m.impl("rnn_relu.data", &packed_layers<Cell::kRelu, at::native::rnn_relu>);
  m.impl("lstm_cell", &lstm_cell);
  m.impl("gru_cell", &gru_cell);
}

}  // namespace
}  // namespace remora

// Registered for both keys: a tensor made in inference mode has no autograd key.
TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  remora::register_layers(m);
  m.impl("_thnn_fused_lstm_cell", &remora::fused_lstm_cell);
  m.impl("_thnn_fused_gru_cell", &remora::fused_gru_cell);
}
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) { remora::register_layers(m); }
