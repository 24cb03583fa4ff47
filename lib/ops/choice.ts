// Ops that choose among the entries of the last dimension.
import { rangeError, shown, typeError } from '../errors.js'
import { native } from '../native.js'
import { checkOptions, number, whole } from '../options.js'
import { Tensor, type TensorInput, scope, tensor } from '../tensor.js'
import { call, one, two } from './call.js'

/**
 * softmax over `dim` (default the last) of a tensor of float32, float16 or bfloat16, in its dtype; computed in float32. What is
 * −∞ all along gives 0.
 */
export function softmax(x: TensorInput, options: { dim?: number } = {}): Tensor {
  checkOptions(options, ['dim'])
  const { dim } = options
  if (dim === undefined) return one(call(['x'], 1, [x], (h) => native.softmax(h[0]!)))
  return scope(() => softmax((Tensor.isTensor(x) ? x : tensor(x)).transpose(dim, -1)).transpose(dim, -1))
}

/**
 * The index of the largest entry of the last dimension, int32: x (…, n), float32, float16 or bfloat16, gives (…). NaN counts
 * as the largest; ties go to the lower index.
 */
export function argmax(x: TensorInput): Tensor {
  return one(call(['x'], 1, [x], (h) => native.argmax(h[0]!)))
}

/**
 * The k largest entries of the last dimension, largest first and in x's dtype (float32, float16 or bfloat16), and their
 * indices (int32), ordered as `argmax` orders them.
 */
export function topk(x: TensorInput, k: number): { values: Tensor; indices: Tensor } {
  if (typeof k !== 'number') throw typeError('ERR_OPTION', 'k', 'a whole number', shown(k))
  if (!Number.isSafeInteger(k)) throw rangeError('ERR_OPTION', 'k', 'a whole number', shown(k))
  const [values, indices] = two(call(['x'], 1, [x], (h) => native.topk(h[0]!, k)))
  return { values, indices }
}

export interface SampleOptions {
  /** Divides the logits. 0 takes the largest. Default 1. */
  temperature?: number
  /** Only the topK likeliest; 0 for all. */
  topK?: number
  /** Of those, the likeliest that together have this much of the mass. Default 1: all. */
  topP?: number
  /** Of the random numbers. The same (seed, step, row) draws the same number on every device. */
  seed?: number | bigint
  /** Counts the draws from one seed. As an int32 or int64 Tensor of one element it is read where it lives: `increment` moves it on. */
  step?: number | bigint | Tensor
}

const names = ['logits', 'step']
const known = ['temperature', 'topK', 'topP', 'seed', 'step'] as const

/**
 * One index drawn from softmax(logits / temperature) for each row: logits (…, n), float32, float16 or bfloat16, gives (…)
 * int32. The draw is defined to the bit, so the same logits give the same index on every device and in every dtype that holds
 * them. A row with a NaN or +∞ gives its argmax.
 */
export function sample(logits: TensorInput, options: SampleOptions = {}): Tensor {
  checkOptions(options, known)
  const temperature = number(options.temperature, 'temperature', 1)
  const topK = whole(options.topK, 'topK', 0)
  const topP = number(options.topP, 'topP', 1)
  const seed = counter(options.seed, 'seed')
  const counted = Tensor.isTensor(options.step)
  const step = counted ? 0n : counter(options.step, 'step')
  const inputs = [logits, counted ? (options.step as Tensor) : undefined]
  return one(call(names, 1, inputs, (h) => native.sample(h[0]!, temperature, topK, topP, seed, step, h[1])))
}

/** @internal a whole number as the 64 bits that the addon takes; 0 where there is none */
export function counter(value: unknown, name: string): bigint {
  if (value === undefined) return 0n
  if (typeof value === 'bigint') return BigInt.asUintN(64, value)
  if (typeof value !== 'number') throw typeError('ERR_OPTION', name, 'a whole number or a bigint', shown(value))
  if (!Number.isSafeInteger(value)) throw rangeError('ERR_OPTION', name, 'a whole number or a bigint', shown(value))
  return BigInt.asUintN(64, BigInt(value))
}
