import { rangeError, shown, typeError } from '../errors.js'
import { checkOptions } from '../options.js'
import { ModelCache } from './cache.js'
import type { GenerateOptions, Plan } from './generate.js'
import { isSignal } from './signal.js'

const NAMES = ['maxNewTokens', 'temperature', 'topK', 'topP', 'seed', 'stop', 'signal', 'ignoreEos', 'cache'] as const

/** Checks generate's options and fills in their defaults. */
export function makePlan(options: GenerateOptions, endIds: readonly number[]): Plan {
  checkOptions(options, NAMES)
  const {
    maxNewTokens = 256,
    temperature = 0,
    topK = 0,
    topP = 1,
    stop = [],
    signal,
    ignoreEos = false,
    cache,
  } = options
  const seed = options.seed ?? Math.floor(Math.random() * 2 ** 32)
  check('maxNewTokens', maxNewTokens, isWhole(maxNewTokens) || maxNewTokens === Infinity, 'a whole number or Infinity')
  check('temperature', temperature, Number.isFinite(temperature) && temperature >= 0, 'a finite number from 0 on')
  check('topK', topK, isWhole(topK), 'a whole number, 0 for all')
  check('topP', topP, typeof topP === 'number' && topP > 0 && topP <= 1, 'a number above 0 and up to 1')
  check('seed', seed, isWhole(seed), 'a whole number')
  check('stop', stop, areIds(stop), 'an array of token ids')
  check('signal', signal, signal === undefined || isSignal(signal), 'an AbortSignal')
  check('ignoreEos', ignoreEos, typeof ignoreEos === 'boolean', 'true or false')
  check('cache', cache, cache === undefined || cache instanceof ModelCache, 'what newCache returns')
  const ends = new Set([...stop, ...(ignoreEos ? [] : endIds)])
  return { maxNewTokens, temperature, topK, topP, seed, ends, signal, cache }
}

function areIds(list: unknown): list is number[] {
  if (!Array.isArray(list)) return false
  for (let i = 0; i < list.length; i++) if (!Number.isSafeInteger(list[i])) return false
  return true
}

function isWhole(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function check(name: string, value: unknown, good: boolean, expected: string): void {
  if (good) return
  const error = typeof value === 'number' ? rangeError : typeError
  throw error('ERR_OPTION', name, expected, shown(value))
}
