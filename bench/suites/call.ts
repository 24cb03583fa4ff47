// What a call costs the JavaScript thread, result's disposal included: an op on tensors so small that its work is nothing.
// `us` is the median over batches of calls; `us_all` is the time of everything over the number of calls, with what the
// collector and finalizers take.
import {
  type Tensor,
  add,
  causalConv1dUpdate,
  linear,
  rmsNorm,
  selectiveScan,
  selectiveStateUpdate,
} from '../../lib/index.js'
import { type Bench, round } from '../bench.js'
import { Inputs } from '../inputs.js'
import { breathe, quantile } from '../measure.js'

const batch = 250

export async function call(bench: Bench): Promise<void> {
  const from = new Inputs(bench.device)
  try {
    for (const [name, queue] of Object.entries(calls(from))) {
      if (bench.wants('call', { name })) await measureCall(bench, name, queue)
    }
  } finally {
    for (const t of from.made) t.dispose()
  }
}

function calls(from: Inputs): Record<string, () => void> {
  const [b, d, n, L] = [1, 4, 2, 4]
  const [x, y] = [from.uniform([16]), from.uniform([16])]
  const [rows, residual, weight] = [from.uniform([2, 16]), from.uniform([2, 16]), from.uniform([16])]
  const [u, delta, z] = [from.uniform([b, d, L]), from.uniform([b, d, L]), from.uniform([b, d, L])]
  const [A, B, C] = [from.uniform([d, n], -2, -1), from.uniform([b, n, L]), from.uniform([b, n, L])]
  const [D, bias, state] = [from.uniform([d]), from.uniform([d]), from.uniform([b, d, n])]
  const [token, gate, B1, C1] = [from.uniform([b, d]), from.uniform([b, d]), from.uniform([b, n]), from.uniform([b, n])]
  const [taps, convState, matrix] = [from.uniform([d, 4]), from.uniform([b, d, 3]), from.uniform([16, 16])]
  const both = (r: { out: Tensor } & Record<string, Tensor>): void => {
    for (const t of Object.values(r)) t.dispose()
  }
  return {
    'add of 16': () => add(x, y).dispose(),
    'rmsNorm with residual': () => both(rmsNorm(rows, weight, { eps: 1e-5, residual })),
    'linear 2×16 by 16×16': () => linear(rows, matrix, { bias: weight, activation: 'silu', residual }).dispose(),
    'selectiveScan, every option': () =>
      both(
        selectiveScan(u, delta, A, B, C, {
          D,
          z,
          deltaBias: bias,
          deltaSoftplus: true,
          initialState: state,
          returnLastState: true,
        }),
      ),
    'selectiveStateUpdate, every option': () =>
      selectiveStateUpdate(state, token, token, A, B1, C1, { D, z: gate, dtBias: bias, dtSoftplus: true }).dispose(),
    causalConv1dUpdate: () => causalConv1dUpdate(token, convState, taps, { bias, activation: 'silu' }).dispose(),
  }
}

async function measureCall(bench: Bench, name: string, queue: () => void): Promise<void> {
  const { device } = bench
  const warm = 8
  const batches = bench.quick ? 40 : 400
  const samples: number[] = []
  let all = 0
  for (let i = -warm; i < batches; i++) {
    const from = performance.now()
    for (let n = 0; n < batch; n++) queue()
    const called = performance.now()
    await breathe()
    if (i >= 0) {
      samples.push((1e3 * (called - from)) / batch)
      all += (1e3 * (performance.now() - from)) / batch
    }
    device.synchronizeSync()
  }
  samples.sort((a, b) => a - b)
  const us = quantile(samples, 0.5)
  bench.report({
    op: 'call',
    pass: 'forward',
    device: device.name,
    dtype: 'float32',
    name,
    ms: round(us / 1e3),
    us: round(us, 3),
    us_all: round(all / batches, 3),
    spread: round((quantile(samples, 0.75) - quantile(samples, 0.25)) / 2 / us, 2),
    samples: batches,
    repeats: batch,
  })
}
