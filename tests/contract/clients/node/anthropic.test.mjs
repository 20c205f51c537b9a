// Anthropic's library for JavaScript. Run by ../test_node.py, which sets the address and the key.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import Anthropic from '@anthropic-ai/sdk'

const { LAMPLIGHTER_URL, LAMPLIGHTER_KEY } = process.env
const make = (apiKey = LAMPLIGHTER_KEY) => new Anthropic({ baseURL: LAMPLIGHTER_URL, apiKey, maxRetries: 0, timeout: 60_000 })
const client = make()
const messages = [{ role: 'user', content: 'What is the capital of France?' }]

test('messages, whole and streamed', async () => {
  const whole = await client.messages.create({ model: 'small', max_tokens: 12, temperature: 0, messages })
  assert.match(whole.content[0].text, /Paris/)
  assert.ok(whole.usage.output_tokens > 0)
  const stream = client.messages.stream({ model: 'small', max_tokens: 12, temperature: 0, messages })
  assert.match(await stream.finalText(), /Paris/)
  assert.ok((await stream.finalMessage()).usage.output_tokens > 0)
})

test('errors have its classes', async () => {
  await assert.rejects(make('lk-wrong').messages.create({ model: 'small', max_tokens: 4, messages }), Anthropic.AuthenticationError)
  await assert.rejects(client.messages.create({ model: 'absent', max_tokens: 4, messages }), Anthropic.NotFoundError)
  await assert.rejects(client.messages.create({ model: 'small', max_tokens: 4, messages: [] }), Anthropic.BadRequestError)
})
