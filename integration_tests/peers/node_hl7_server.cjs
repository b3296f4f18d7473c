// The MLLP server of node-hl7-server: writes each message to a file and accepts it. Arguments: PORT FILE.
// It re-processes the earlier messages of a connection that stays open; receivers are told to expect that.
const fs = require('node:fs')
const { Server } = require('node-hl7-server')

const [port, file] = process.argv.slice(2)
const server = new Server({ bindAddress: '127.0.0.1' })
const inbound = server.createInbound({ port: Number(port) }, async (request, response) => {
  fs.appendFileSync(file, JSON.stringify(request.getMessage().toString()) + '\n')
  await response.sendResponse('AA')
})
inbound.on('client.error', (error) => console.error('client error', error.code))
process.on('SIGTERM', () => process.exit(0))
