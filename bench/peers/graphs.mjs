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
