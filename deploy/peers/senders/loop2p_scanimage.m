function loop2p_scanimage (src, evt, varargin)
% LOOP2P_SCANIMAGE  ScanImage user function: send each frame to a loop2p rig.
%
% In ScanImage's USER FUNCTIONS panel bind it to frameAcquired, acqModeDone and acqAbort, each with these arguments:
%
%   {address, port, planes, channel, offset}     such as {'192.168.10.2', 30000, 2, 1, 0}
%
% address and port of the rig's imaging machine; planes as in the rig file (default 1); channel: which of those shown
% (default 1); offset: added to every pixel, since ScanImage's int16 pixels may be below 0 (default 0). The channel must
% be displayed. loop2p_scanimage () without arguments shows the counts; clear loop2p_scanimage forgets them.
%
% Frames are those of hSI.hDisplay.lastFrame, (lines, pixels) as shown, and their plane is that of lastFrameNumber, from
% 1: turn off display averaging, and use as many frames a slice as planes need to alternate.

  persistent line
  if nargin == 0
    if ~isempty (line)
      fprintf ('loop2p: %d sent, %d dropped, %d connections %s\n', line.sent, line.dropped, line.connections, ...
               line.trouble);
    end
    return
  end
  given = {'127.0.0.1', 30000, 1, 1, 0};
  given(1:numel (varargin)) = varargin;
  if isempty (line)
    line = loop2p_send_frame ();
    line.address = given{1};
    line.port = given{2};
    line.planes = given{3};
    line.offset = given{5};
  end
  if ~strcmp (evt.EventName, 'frameAcquired')
    line = loop2p_send_frame (line);
    return
  end
  shown = src.hSI.hDisplay;
  plane = mod (double (shown.lastFrameNumber) - 1, line.planes);
  if numel (shown.lastFrame) >= given{4} && ~isempty (shown.lastFrame{given{4}})
    line = loop2p_send_frame (line, shown.lastFrame{given{4}}, plane);
  end
end
