import type { Bench } from '../bench.js'
import { attention } from './attention.js'
import { call } from './call.js'
import { ceilings } from './ceilings.js'
import { conv1d } from './conv1d.js'
import { decode } from './decode.js'
import { linear } from './linear.js'
import { model } from './model.js'
import { scan } from './scan.js'
import { ssd } from './ssd.js'
import { update } from './update.js'

export const suites = { ceilings, call, scan, ssd, conv1d, update, attention, decode, linear, model } satisfies Record<
  string,
  (bench: Bench) => Promise<void>
>

export type SuiteName = keyof typeof suites
export const suiteNames = Object.keys(suites) as SuiteName[]
