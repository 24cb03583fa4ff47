import { debug, device, tensor, type Device, type DType, type Tensor, type TensorData } from '../../lib/index.js'
import { describe, expect, test } from 'vitest'
import type { NDArray } from '../reference/array.js'
import { fromBits, toBits } from './floats.js'

/** What the environment asks the tests to run on: a device, and on the CPU one of its instruction sets. */
export const target = process.env['SEQMIX_CPU_TARGET']
const lacking = missing()
export const dut = (lacking ? undefined : device()) as Device // never undefined inside a test that runs
export const on = lacking ? 'cpu' : dut.type

function missing(): string | undefined {
  try {
    device()
    return undefined
  } catch (e) {
    if (!target) throw e
    return (e as Error).message
  }
}

/**
 * A suite of kernels: in poisoned memory (every new allocation is NaN), so that an element that a kernel does not write
 * shows; skipped, with the reason in its name, where this processor lacks the instruction set asked for.
 */
export function describeOp(name: string, suite: () => void): void {
  // Not `suite` itself, which may make tensors as it names its cases.
  if (lacking) describe.skip(`${name} (${lacking})`, () => test('nothing of it', () => {}))
  else
    describe(target ? `${name} on ${target}` : name, () => {
      debug.poison(true)
      suite()
    })
}

/** The kernel that ran last is this op's, compiled for the instruction set (or GPU) asked for. */
export function expectKernel(op: string): void {
  const [where, isa, ran] = debug.lastKernel(dut).split('.')
  expect([where, ran]).toEqual([on, op])
  if (on === 'cpu' && target) expect(isa).toBe(target)
}

/** A tensor of these values on the device under test. Of 16-bit floats, values that the dtype holds: see `rounded`. */
export function put(a: NDArray, dtype: DType = 'float32'): Tensor {
  return tensor(toTypedArray(a, dtype), { shape: [...a.shape], dtype, device: dut })
}

export function toTypedArray(a: NDArray, dtype: DType): TensorData {
  switch (dtype) {
    case 'float32':
      return Float32Array.from(a.data)
    case 'int32':
      return Int32Array.from(a.data)
    case 'int64':
      return BigInt64Array.from(a.data, BigInt)
    case 'bool':
      return Uint8Array.from(a.data)
    case 'int8':
      return Int8Array.from(a.data)
    case 'float16':
    case 'bfloat16':
      return toBits(a.data, dtype)
  }
}

export interface Values {
  dtype?: DType
  shape: readonly number[]
  data: ArrayLike<number>
}

/** A tensor's values, as plain numbers in logical order. */
export async function take(t: Tensor): Promise<Values> {
  const { dtype, shape } = t
  const data = await t.data()
  if (data instanceof BigInt64Array) return { dtype, shape, data: Array.from(data, Number) }
  const half = dtype === 'float16' || dtype === 'bfloat16'
  return { dtype, shape, data: half ? fromBits(data as Uint16Array, dtype) : data }
}
