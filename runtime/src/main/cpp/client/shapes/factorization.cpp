// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Factorizations of matrices and their use, which LAPACK computes: matrices are in its order, columns first.
#include <ATen/native/LinearAlgebraUtils.h>

#include "client/shapes/rule.h"

namespace remora {

namespace {

at::Tensor columns_first(c10::IntArrayRef sizes, c10::ScalarType dtype) {
  c10::DimVector turned(sizes);
  std::swap(turned[turned.size() - 1], turned[turned.size() - 2]);
  return shape_tensor(turned, dtype).transpose(-2, -1);
}

at::Tensor columns_first(const at::Tensor& like) { return columns_first(like.sizes(), like.scalar_type()); }

// The sizes of a batch of vectors, one of this length for each matrix.
c10::DimVector vectors(const at::Tensor& matrices, int64_t length) {
  c10::DimVector sizes(matrices.sizes().slice(0, matrices.dim() - 2));
  sizes.push_back(length);
  return sizes;
}

void check_matrices(const at::Tensor& t) {
  if (t.dim() < 2 || t.numel() == 0 || (!t.is_floating_point() && !t.is_complex()) ||
      c10::isReducedFloatingType(t.scalar_type())) {
    unsure("the matrices");
  }
}

void check_square(const at::Tensor& t) {
  check_matrices(t);
  if (t.size(-1) != t.size(-2)) unsure("the matrices are not square");
}

Results like_square(const Call& call) {
  check_square(call.tensor(0));
  return {columns_first(call.tensor(0))};
}

Results cholesky_solve(const Call& call) {
  check_matrices(call.tensor(0));
  check_square(call.tensor(1));
  return {columns_first(call.tensor(0))};
}

Results reflectors(const Call& call) {
  auto a = call.tensor(0);
  check_matrices(a);
  return {columns_first(a), shape_tensor(vectors(a, std::min(a.size(-1), a.size(-2))), a.scalar_type())};
}

void check_reflectors(const at::Tensor& a, const at::Tensor& tau) {
  check_matrices(a);
  if (tau.scalar_type() != a.scalar_type() || tau.dim() != a.dim() - 1 || tau.size(-1) > a.size(-1) ||
      tau.sizes() != c10::IntArrayRef(vectors(a, tau.size(-1)))) {
    unsure("the reflectors");
  }
}

Results product_of_reflectors(const Call& call) {
  auto a = call.tensor(0);
  check_reflectors(a, call.tensor(1));
  if (a.size(-2) < a.size(-1)) unsure("a wide matrix");
  return {columns_first(a)};
}

Results product_with_reflectors(const Call& call) {
  auto a = call.tensor(0), tau = call.tensor(1), other = call.tensor(2);
  check_reflectors(a, tau);
  check_matrices(other);
  auto side = other.size(call.flag(3) ? -2 : -1);
  if (other.dim() != a.dim() || other.scalar_type() != a.scalar_type() || side != a.size(-2) || tau.size(-1) > side ||
      other.sizes().slice(0, other.dim() - 2) != a.sizes().slice(0, a.dim() - 2)) {
    unsure("the operands");
  }
  return {columns_first(other)};
}

Results eigenvalues(const Call& call) {
  auto a = call.tensor(0);
  check_square(a);
  return {shape_tensor(vectors(a, a.size(-1)), c10::toComplexType(a.scalar_type()))};
}

Results eigenvectors(const Call& call) {
  return {eigenvalues(call)[0],
          columns_first(call.tensor(0).sizes(), c10::toComplexType(call.tensor(0).scalar_type()))};
}

Results solve_triangular(const Call& call) {
  auto a = call.tensor(0), b = call.tensor(1);
  check_square(a);
  check_matrices(b);
  if (a.scalar_type() != b.scalar_type() || b.size(call.flag(3) ? -2 : -1) != a.size(-1)) unsure("the operands");
  auto [right, left] = at::native::_linalg_broadcast_batch_dims(b, a, nullptr);
  // Conjugate columns are solved as rows, without a copy.
  if (left.is_conj() && left.mT().is_contiguous()) return {contiguous(right)};
  return {columns_first(right)};
}

Results exponential(const Call& call) {
  check_square(call.tensor(0));
  return {contiguous(call.tensor(0))};
}

// Outputs without elements take the results' layout. Others that are resized are contiguous.
template <Rule rule>
Results into_outputs(const Call& call) {
  auto results = rule(call);
  for (size_t i = 0; i < results.size(); i++) {
    if (call.tensor(call.size() - results.size() + i).numel() != 0) results[i] = contiguous(results[i].toTensor());
  }
  return results;
}

}  // namespace

Rules factorization_rules() {
  return {
      {like_square, {"cholesky", "cholesky_inverse"}},
      {resized<like_square>, {"cholesky.out"}},
      {into_outputs<like_square>, {"cholesky_inverse.out"}},
      {cholesky_solve, {"_cholesky_solve_helper"}},
      {reflectors, {"geqrf"}},
      {into_outputs<reflectors>, {"geqrf.a"}},
      {product_of_reflectors, {"linalg_householder_product"}},
      {into_outputs<product_of_reflectors>, {"linalg_householder_product.out"}},
      {product_with_reflectors, {"ormqr"}},
      {into_outputs<product_with_reflectors>, {"ormqr.out"}},
      {eigenvalues, {"_linalg_eigvals"}},
      {resized<eigenvalues>, {"linalg_eigvals.out"}},
      {eigenvectors, {"linalg_eig"}},
      {into_outputs<eigenvectors>, {"linalg_eig.out"}},
      {exponential, {"linalg_matrix_exp"}},
      {solve_triangular, {"linalg_solve_triangular", "linalg_solve_triangular.out"}},
  };
}

}  // namespace remora
