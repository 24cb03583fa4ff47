// Our ops as onnxruntime can express them, each in the way that is fastest there. Layouts are those its ops want: (L, D).
import { constant, graph, model, node, value } from './onnx.mjs'

const own = 'com.microsoft'

/**
 * y (L, D) and the last state, from s (D, N), dt and x (L, D), B and C (L, N): a body that onnxruntime runs for each token.
 */
export function scanAsLoop({ D, N, L, A }) {
  const body = graph(
    [
      node('Unsqueeze', ['dt_t', 'one'], ['dt_column']),
      node('Mul', ['dt_column', 'A'], ['exponent']),
      node('Exp', ['exponent'], ['decay']),
      node('Mul', ['decay', 's'], ['kept']),
      node('Mul', ['dt_t', 'x_t'], ['dx']),
      node('Unsqueeze', ['dx', 'one'], ['dx_column']),
      node('Mul', ['dx_column', 'B_t'], ['added']),
      node('Add', ['kept', 'added'], ['s_next']),
      node('MatMul', ['s_next', 'C_t'], ['y_t']),
    ],
    [],
    [value('s', [D, N]), value('dt_t', [D]), value('x_t', [D]), value('B_t', [N]), value('C_t', [N])],
    [value('s_next', [D, N]), value('y_t', [D])],
  )
  return model(
    graph(
      [
        node('Softplus', ['dt'], ['step']),
        node('Scan', ['s0', 'step', 'x', 'B', 'C'], ['last', 'y'], { num_scan_inputs: 4, body: { graph: body } }),
      ],
      [constant('A', [D, N], A), constant('one', [1], [1])],
      [value('s0', [D, N]), value('dt', [L, D]), value('x', [L, D]), value('B', [L, N]), value('C', [L, N])],
      [value('last', [D, N]), value('y', [L, D])],
    ),
  )
}

/**
 * The same as a gated linear attention: each channel a head with values of one number, C and B the query and key that all
 * heads share, decay a number for each key. Shapes have a batch of 1 in front.
 */
export function scanAsAttention({ D, N, L, A }) {
  const settings = { q_num_heads: 1, kv_num_heads: D, update_rule: 'gated', scale: { float: 1 } }
  return model(
    graph(
      [
        node('Softplus', ['dt'], ['step']),
        node('Mul', ['step', 'x'], ['v']),
        node('Unsqueeze', ['step', 'last_axis'], ['step_column']),
        node('Mul', ['step_column', 'A'], ['decay4']),
        node('Reshape', ['decay4', 'flat'], ['decay']),
        node('LinearAttention', ['C', 'B', 'v', 's0', 'decay'], ['y', 'last'], settings, own),
      ],
      [constant('A', [D, N], A), constant('last_axis', [1], [3]), constant('flat', [3], [1, L, D * N])],
      [
        value('s0', [1, D, N, 1]),
        value('dt', [1, L, D]),
        value('x', [1, L, D]),
        value('B', [1, L, N]),
        value('C', [1, L, N]),
      ],
      [value('y', [1, L, D]), value('last', [1, D, N, 1])],
    ),
  )
}

/**
 * Mamba-2's scan as a gated linear attention: H heads of P channels, one decay a head, C and B the query and key that all
 * share. The state is (1, H, N, P).
 */
export function ssdAsAttention({ H, P, N, L, A }) {
  const settings = { q_num_heads: 1, kv_num_heads: H, update_rule: 'gated', scale: { float: 1 } }
  return model(
    graph(
      [
        node('Softplus', ['dt'], ['step']),
        node('Mul', ['step', 'A'], ['decay']),
        node('Unsqueeze', ['step', 'last_axis'], ['step_column']),
        node('Reshape', ['x', 'by_head'], ['x_heads']),
        node('Mul', ['x_heads', 'step_column'], ['v_heads']),
        node('Reshape', ['v_heads', 'flat'], ['v']),
        node('LinearAttention', ['C', 'B', 'v', 's0', 'decay'], ['y', 'last'], settings, own),
      ],
      [
        constant('A', [H], A),
        constant('last_axis', [1], [3]),
        constant('by_head', [4], [1, L, H, P]),
        constant('flat', [3], [1, L, H * P]),
      ],
      [
        value('s0', [1, H, N, P]),
        value('dt', [1, L, H]),
        value('x', [1, L, H * P]),
        value('B', [1, L, N]),
        value('C', [1, L, N]),
      ],
      [value('y', [1, L, H * P]), value('last', [1, H, N, P])],
    ),
  )
}

/**
 * The same in chunks of Q tokens, all of it products of matrices: inside chunks C Bᵀ by decays by x, and between them
 * the chunks' states by a matrix of decays. L is a multiple of Q; the state is (H, N, P).
 */
export function ssdAsProducts({ H, P, N, L, A, Q = 64 }) {
  const chunks = L / Q
  const all = chunks + 1
  /** Added to exponents: -1e30 above the diagonal. */
  const past = (n) => Float32Array.from({ length: n * n }, (_, i) => (i % n > Math.floor(i / n) ? -1e30 : 0))
  const index = (name, ...numbers) => constant(name, [numbers.length], numbers)
  return model(
    graph(
      [
        // a = Σ Δ A inside each chunk, (H, chunks, Q), and e^(a_i - a_j)
        node('Softplus', ['dt'], ['step']),
        node('Mul', ['step', 'A'], ['rates']),
        node('Reshape', ['rates', 'chunks_q_h'], ['rates_chunks']),
        node('Transpose', ['rates_chunks'], ['rates_heads'], { perm: [2, 0, 1] }),
        node('CumSum', ['rates_heads', 'two_scalar'], ['a']),
        node('Unsqueeze', ['a', 'three'], ['a_rows']),
        node('Unsqueeze', ['a', 'two'], ['a_columns']),
        node('Sub', ['a_rows', 'a_columns'], ['differences']),
        node('Add', ['differences', 'past_tokens'], ['exponents']),
        node('Exp', ['exponents'], ['decays']),
        // inside chunks
        node('Reshape', ['B', 'chunks_q_n'], ['B_chunks']),
        node('Reshape', ['C', 'chunks_q_n'], ['C_chunks']),
        node('Transpose', ['B_chunks'], ['B_turned'], { perm: [0, 2, 1] }),
        node('MatMul', ['C_chunks', 'B_turned'], ['products']),
        node('Mul', ['decays', 'products'], ['weights']),
        node('Reshape', ['x', 'l_h_p'], ['x_heads']),
        node('Unsqueeze', ['step', 'two'], ['step_column']),
        node('Mul', ['x_heads', 'step_column'], ['dx']),
        node('Reshape', ['dx', 'chunks_q_h_p'], ['dx_chunks']),
        node('Transpose', ['dx_chunks'], ['dx_heads'], { perm: [2, 0, 1, 3] }),
        node('MatMul', ['weights', 'dx_heads'], ['y_inside']),
        // what each chunk adds to the state, and the state before each
        node('Slice', ['a', 'last_token', 'q', 'two'], ['a_end']),
        node('Sub', ['a_end', 'a'], ['to_end']),
        node('Exp', ['to_end'], ['decay_to_end']),
        node('Unsqueeze', ['decay_to_end', 'three'], ['decay_to_end_column']),
        node('Mul', ['dx_heads', 'decay_to_end_column'], ['dx_at_end']),
        node('MatMul', ['B_turned', 'dx_at_end'], ['added']),
        node('Reshape', ['s0', 'h_1_n_p'], ['s0_chunk']),
        node('Concat', ['s0_chunk', 'added'], ['parts'], { axis: 1 }),
        node('Reshape', ['parts', 'h_all_np'], ['parts_flat']),
        node('Squeeze', ['a_end', 'two'], ['totals']),
        node('Concat', ['zeros', 'totals'], ['all_totals'], { axis: 1 }),
        node('CumSum', ['all_totals', 'one_scalar'], ['t']),
        node('Unsqueeze', ['t', 'two'], ['t_rows']),
        node('Unsqueeze', ['t', 'one'], ['t_columns']),
        node('Sub', ['t_rows', 't_columns'], ['t_differences']),
        node('Add', ['t_differences', 'past_chunks'], ['t_exponents']),
        node('Exp', ['t_exponents'], ['t_decays']),
        node('MatMul', ['t_decays', 'parts_flat'], ['states_flat']),
        node('Reshape', ['states_flat', 'h_all_n_p'], ['states']),
        node('Slice', ['states', 'zero', 'chunks', 'one'], ['before']),
        node('Slice', ['states', 'chunks', 'all', 'one'], ['last']),
        // what the states give
        node('MatMul', ['C_chunks', 'before'], ['y_states']),
        node('Exp', ['a'], ['decay_from_start']),
        node('Unsqueeze', ['decay_from_start', 'three'], ['decay_from_start_column']),
        node('Mul', ['y_states', 'decay_from_start_column'], ['y_before']),
        node('Add', ['y_inside', 'y_before'], ['y_heads']),
        node('Transpose', ['y_heads'], ['y_tokens'], { perm: [1, 2, 0, 3] }),
        node('Reshape', ['y_tokens', 'l_hp'], ['y']),
      ],
      [
        constant('A', [H], A),
        constant('past_tokens', [Q, Q], past(Q)),
        constant('past_chunks', [all, all], past(all)),
        constant('zeros', [H, 1], new Float32Array(H)),
        constant('one_scalar', [], [1]),
        constant('two_scalar', [], [2]),
        index('zero', 0),
        index('one', 1),
        index('two', 2),
        index('three', 3),
        index('last_token', Q - 1),
        index('q', Q),
        index('chunks', chunks),
        index('all', all),
        index('chunks_q_h', chunks, Q, H),
        index('chunks_q_n', chunks, Q, N),
        index('chunks_q_h_p', chunks, Q, H, P),
        index('l_h_p', L, H, P),
        index('l_hp', L, H * P),
        index('h_1_n_p', H, 1, N, P),
        index('h_all_np', H, all, N * P),
        index('h_all_n_p', H, all, N, P),
      ],
      [value('s0', [H, N, P]), value('dt', [L, H]), value('x', [L, H * P]), value('B', [L, N]), value('C', [L, N])],
      [value('y', [L, H * P]), value('last', [H, 1, N, P])],
    ),
  )
}

/** x (1, D, L) and s (1, D, K-1) give y and the last K-1 inputs; with silu. */
export function convolution({ D, K, L, weight, bias }) {
  return model(
    graph(
      [node('CausalConvWithState', ['x', 'w', 'b', 's'], ['y', 'last'], { activation: 'silu' }, own)],
      [constant('w', [D, 1, K], weight), constant('b', [D], bias)],
      [value('x', [1, D, L]), value('s', [1, D, K - 1])],
      [value('y', [1, D, L]), value('last', [1, D, K - 1])],
    ),
  )
}

/** y (1, L, H·D) from q (1, L, H·D), k and v (1, S, H·D). */
export function attention({ H, D, L, S, causal }) {
  const settings = { num_heads: H, unidirectional: causal ? 1 : 0 }
  return model(
    graph(
      [node('MultiHeadAttention', ['q', 'k', 'v'], ['y'], settings, own)],
      [],
      [value('q', [1, L, H * D]), value('k', [1, S, H * D]), value('v', [1, S, H * D])],
      [value('y', [1, L, H * D])],
    ),
  )
}

/**
 * The same, causal, with Hk heads for keys and values, P of which came before: past_k and past_v (1, Hk, P, D). `last` is the
 * index of the last key, `total` their number.
 */
export function groupedAttention({ H, Hk, D, L, P }) {
  const past = P ? ['past_k', 'past_v'] : ['', '']
  return model(
    graph(
      [
        node(
          'GroupQueryAttention',
          ['q', 'k', 'v', ...past, 'last', 'total'],
          ['y', 'all_k', 'all_v'],
          { num_heads: H, kv_num_heads: Hk },
          own,
        ),
      ],
      [],
      [
        ...[value('q', [1, L, H * D]), value('k', [1, L, Hk * D]), value('v', [1, L, Hk * D])],
        ...(P ? [value('past_k', [1, Hk, P, D]), value('past_v', [1, Hk, P, D])] : []),
        ...[value('last', [1], 'int32'), value('total', [], 'int32')],
      ],
      [value('y', [1, L, H * D]), value('all_k', [1, Hk, P + L, D]), value('all_v', [1, Hk, P + L, D])],
    ),
  )
}

/** x (M, K) times a constant (K, N). */
export function product({ M, K, N, weight }) {
  return model(
    graph(
      [node('MatMul', ['x', 'w'], ['y'])],
      [constant('w', [K, N], weight)],
      [value('x', [M, K])],
      [value('y', [M, N])],
    ),
  )
}
